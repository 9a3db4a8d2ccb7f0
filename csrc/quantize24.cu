#include "quantize24.h"

#include "common/quantized24.h"

namespace sparsetrain {

std::tuple<Tensor, Tensor, Tensor> quantize24(const Tensor& x, const Tensor& mask, ScalarType dtype,
                                              const std::string& scaling, bool power_of_two) {
  return std::get<0>(quantize_packed(x, mask, {dtype, scaling, power_of_two}, false));
}

}  // namespace sparsetrain
