#include "matmul24.h"

#include "product/reference.h"
#include "product/run.h"

namespace sparsetrain {
namespace {

Activation activation_of(const std::string& name) {
  if (name == "none") return Activation::kNone;
  if (name == "squared_relu") return Activation::kSquaredRelu;
  STD_TORCH_CHECK(name == "gelu", "activation: ", name,
                  " is unknown; use none, squared_relu or gelu");
  return Activation::kGelu;
}

}  // namespace

Tensor matmul24(const Tensor& values, const Tensor& meta, const Tensor& b,
                const std::optional<Tensor>& bias, bool transpose_out,
                std::optional<ScalarType> out_dtype, const std::string& activation,
                const std::optional<Tensor>& residual) {
  if (!has_kernel(values)) {
    auto stack = call_reference("sparsetrain::_matmul24_reference", values, meta, b, bias,
                                transpose_out, out_dtype, activation, residual);
    return torch::stable::detail::to<Tensor>(stack[0]);
  }
  check_product(values, meta, b);
  int64_t rows = transpose_out ? b.size(1) : values.size(0);
  int64_t columns = transpose_out ? values.size(0) : b.size(1);
  check_bias(bias, b, columns);
  ScalarType type = out_dtype.value_or(values.scalar_type());
  STD_TORCH_CHECK(type == values.scalar_type() || type == ScalarType::Float,
                  "out_dtype: ", torch::headeronly::toString(type), " from ",
                  torch::headeronly::toString(values.scalar_type()),
                  " is not supported; leave it out, or use float32");
  DeviceGuard guard(values.get_device_index());
  Wanted wanted;
  wanted.bias = bias;
  wanted.activation = activation_of(activation);
  wanted.transposed = transpose_out;
  Tensor out = torch::stable::new_empty(values, {rows, columns}, type);
  if (residual) {
    check_out("residual", *residual, b, rows, columns);
    STD_TORCH_CHECK(residual->scalar_type() == type,
                    "residual: ", torch::headeronly::toString(residual->scalar_type()),
                    ", but what is returned is ", torch::headeronly::toString(type));
    wanted.residual = residual;
  }
  run_product(values, meta, b, wanted, out);
  return out;
}

}  // namespace sparsetrain
