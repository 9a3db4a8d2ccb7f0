#include "quantize.h"

#include "common/quantized.h"

namespace sparsetrain {

std::tuple<Tensor, Tensor> quantize(const Tensor& x, ScalarType dtype, const std::string& scaling,
                                    bool power_of_two) {
  Quantizing how{dtype, scaling, power_of_two};
  STD_TORCH_CHECK(x.dim() == 2, "x: expected 2 dimensions, got shape ", shape_of(x),
                  "; flatten the leading ones");
  check_quantizing(how);
  return quantize_matrix(x, how);
}

}  // namespace sparsetrain
