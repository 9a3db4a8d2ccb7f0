#include "quantize_both24.h"

#include "common/quantized24.h"

namespace sparsetrain {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> quantize_both24(
    const Tensor& x, const Tensor& mask, ScalarType dtype, const std::string& scaling,
    bool power_of_two) {
  auto [rows, columns] = quantize_packed(x, mask, {dtype, scaling, power_of_two}, true);
  return std::tuple_cat(rows, columns);
}

}  // namespace sparsetrain
