#include "scaled_matmul24.h"

#include "product/reference.h"
#include "product/run.h"

namespace sparsetrain {
namespace {

// Sums of as many products of int8 may not fit into 32 bits.
constexpr int64_t kLongestInt8 = 1 << 18;

bool runs_here(const Tensor& values, const Tensor& b) {
  int major = 0;
  STD_CUDA_CHECK(
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, values.get_device_index()));
  bool exact = values.scalar_type() != ScalarType::Char || 2 * values.size(1) < kLongestInt8;
  return major == 9 && exact && values.size(1) > 0 && b.size(0) > 0;
}

// Scales of a matrix of so many rows; along: their dimension of its rows.
void check_scales(const char* name, const Tensor& scales, int along, int64_t rows,
                  int64_t columns) {
  int64_t n = scales.size(along), across = scales.size(1 - along);
  bool fits = (across == 1 && (n == 1 || n == rows)) ||
              (n == ceil_div(rows, 128) && across == ceil_div(columns, 128));
  STD_TORCH_CHECK(fits, name, ": shape ", shape_of(scales), " is none of those of ", rows, " x ",
                  columns, " values by tensor, row and block", along == 0 ? "" : ", transposed");
}

void check(const Tensor& values, const Tensor& scales, const Tensor& b, const Tensor& scales_b,
           const std::optional<Tensor>& bias, int64_t length, ScalarType out_dtype) {
  check_scales("scales", scales, 0, values.size(0), 2 * values.size(1));
  check_scales("scales_b", scales_b, 1, b.size(1), b.size(0));
  for (auto& [name, x] : {std::pair{"scales", &scales}, std::pair{"scales_b", &scales_b}}) {
    STD_TORCH_CHECK(x->scalar_type() == ScalarType::Float, name, ": ",
                    torch::headeronly::toString(x->scalar_type()), " should be Float");
    STD_TORCH_CHECK(x->get_device_index() == values.get_device_index(), name,
                    ": on another device than values; move it");
  }
  STD_TORCH_CHECK(is_float(out_dtype), "out_dtype: ", torch::headeronly::toString(out_dtype),
                  " is not supported; use bfloat16, float16 or float32");
  if (!bias) return;
  STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == length, "bias: shape ", shape_of(*bias),
                  " should be (", length, "), the last dimension of what is returned");
  STD_TORCH_CHECK(bias->scalar_type() == ScalarType::Float || bias->scalar_type() == out_dtype,
                  "bias: ", torch::headeronly::toString(bias->scalar_type()),
                  " should be Float or ", torch::headeronly::toString(out_dtype));
  STD_TORCH_CHECK(bias->get_device_index() == b.get_device_index(),
                  "bias: on another device than b; move it");
}

}  // namespace

Tensor scaled_matmul24(const Tensor& values, const Tensor& meta, const Tensor& scales,
                       const Tensor& b, const Tensor& scales_b, const std::optional<Tensor>& bias,
                       bool transpose_out, ScalarType out_dtype) {
  check_operands(values, meta, b);
  STD_TORCH_CHECK(scales.dim() == 2 && scales_b.dim() == 2, "scales, scales_b: shapes ",
                  shape_of(scales), ", ", shape_of(scales_b), " should have 2 dimensions");
  if (!runs_here(values, b)) {
    auto stack = call_reference("sparsetrain::_scaled_matmul24_reference", values, meta, scales, b,
                                scales_b, bias, transpose_out, out_dtype);
    return torch::stable::detail::to<Tensor>(stack[0]);
  }
  int64_t rows = transpose_out ? b.size(1) : values.size(0);
  int64_t columns = transpose_out ? values.size(0) : b.size(1);
  check(values, scales, b, scales_b, bias, columns, out_dtype);
  DeviceGuard guard(values.get_device_index());
  Wanted wanted;
  wanted.scales = scales;
  wanted.scales_b = scales_b;
  wanted.bias = bias;
  wanted.transposed = transpose_out;
  Tensor out = torch::stable::new_empty(values, {rows, columns}, out_dtype);
  run_product(values, meta, b, wanted, out);
  return out;
}

}  // namespace sparsetrain
