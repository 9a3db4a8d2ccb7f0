#include "quantize_across24.h"

#include "common/quantized24.h"

namespace sparsetrain {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> quantize_across24(const Tensor& x,
                                                                     const Tensor& mask,
                                                                     ScalarType dtype, bool columns,
                                                                     bool power_of_two) {
  auto [packed, q, scales] = quantize_across(x, mask, dtype, columns, power_of_two);
  return std::tuple_cat(packed, std::make_tuple(q, scales));
}

}  // namespace sparsetrain
