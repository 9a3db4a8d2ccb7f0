#pragma once

#include "common/host.h"

namespace sparsetrain {

// quantize(gelu(z, approximate), dtype, "row", power_of_two): z [R, C], any strides -> q [R, C] and
// float32 scales [R, 1]. In one pass from 16-bit rows of whole vectors of 16 bytes; else in two.
std::tuple<Tensor, Tensor> gelu_quantize(const Tensor& z, const std::string& approximate,
                                         ScalarType dtype, bool power_of_two);

}  // namespace sparsetrain
