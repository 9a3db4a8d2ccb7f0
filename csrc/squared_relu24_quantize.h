#pragma once

#include "common/host.h"

namespace sparsetrain {

// z [R, C] float32, bfloat16 or float16; rule as in sparsify24. Of h = relu(z)^2 made 2:4: values
// [R, C/2] in `dtype`, meta in the order of 8-bit values, scales [R, 1]; values_t and meta_t as
// squared_relu24 gives them. In one pass for float8_e4m3fn by a rule with one exact mask for both
// orientations, from 16-bit rows of a multiple of 16 values, up to 8192; else in two.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> squared_relu24_quantize(const Tensor& z,
                                                                           const std::string& rule,
                                                                           ScalarType dtype,
                                                                           bool power_of_two);

}  // namespace sparsetrain
