#include "scaled_gelu_matmul24.h"

#include "product/reference.h"
#include "product/run.h"

namespace sparsetrain {
namespace {

bool runs_here(const Tensor& values, const Tensor& scales, const Tensor& b,
               const Tensor& scales_b) {
  int major = 0;
  STD_CUDA_CHECK(
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, values.get_device_index()));
  // A matrix of one block along K has scales by block of one column too.
  bool by_row = scales.size(1) == 1 && (scales.size(0) == 1 || scales.size(0) == values.size(0));
  bool by_row_b = scales_b.size(0) == 1 && (scales_b.size(1) == 1 || scales_b.size(1) == b.size(1));
  return major == 9 && by_row && by_row_b && values.size(0) % 16 == 0 && values.size(1) > 0 &&
         b.size(0) > 0;
}

// Float of a shape, on the device of b.
void check_floats(const char* name, const Tensor& x, const Tensor& b, bool fits) {
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float, name, ": ",
                  torch::headeronly::toString(x.scalar_type()), " should be Float");
  STD_TORCH_CHECK(fits, name, ": shape ", shape_of(x), " does not fit values and b");
  STD_TORCH_CHECK(x.get_device_index() == b.get_device_index(), name,
                  ": on another device than b; move it");
}

}  // namespace

Tensor scaled_gelu_matmul24(const Tensor& values, const Tensor& meta, const Tensor& scales,
                            const Tensor& b, const Tensor& scales_b,
                            const std::optional<Tensor>& bias, const std::string& approximate,
                            const Tensor& factors_out) {
  check_operands(values, meta, b);
  STD_TORCH_CHECK(values.scalar_type() == ScalarType::Float8_e4m3fn,
                  "values: ", torch::headeronly::toString(values.scalar_type()),
                  " should be Float8_e4m3fn");
  STD_TORCH_CHECK(approximate == "none" || approximate == "tanh", "approximate: '", approximate,
                  "' is unknown; use one of none, tanh");
  STD_TORCH_CHECK(scales.dim() == 2 && scales_b.dim() == 2, "scales, scales_b: shapes ",
                  shape_of(scales), ", ", shape_of(scales_b), " should have 2 dimensions");
  if (!runs_here(values, scales, b, scales_b)) {
    auto stack = call_reference("sparsetrain::_scaled_gelu_matmul24_reference", values, meta,
                                scales, b, scales_b, bias, approximate, factors_out);
    return torch::stable::detail::to<Tensor>(stack[0]);
  }
  int64_t M = values.size(0), N = b.size(1);
  check_floats("scales", scales, b, scales.size(0) == 1 || scales.size(0) == M);
  check_floats("scales_b", scales_b, b, scales_b.size(1) == 1 || scales_b.size(1) == N);
  check_floats("factors_out", factors_out, b,
               factors_out.dim() == 2 && factors_out.size(0) == N && factors_out.size(1) == 1);
  if (bias) check_floats("bias", *bias, b, bias->dim() == 1 && bias->size(0) == M);
  DeviceGuard guard(values.get_device_index());
  Wanted wanted;
  wanted.scales = scales;
  wanted.scales_b = scales_b;
  wanted.bias = bias;
  wanted.activation = approximate == "tanh" ? Activation::kTanhGelu : Activation::kGelu;
  wanted.transposed = true;
  wanted.factors_out = torch::stable::transpose(factors_out, 0, 1);
  Tensor out = torch::stable::new_empty(values, {N, M}, values.scalar_type());
  run_product(values, meta, b, wanted, out);
  return out;
}

}  // namespace sparsetrain
