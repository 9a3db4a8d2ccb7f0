#pragma once

#include "common/host.h"

namespace sparsetrain {

// x [R, C] float32, bfloat16 or float16; mask uint8 [R, ceil(C/8)]. Values [R, C/2] in
// float8_e4m3fn or int8, metadata, scales of what the mask keeps (reference/quantize24.py).
// Where the mask keeps more than two of a group, the two lowest are kept.
std::tuple<Tensor, Tensor, Tensor> quantize24(const Tensor& x, const Tensor& mask, ScalarType dtype,
                                              const std::string& scaling, bool power_of_two);

}  // namespace sparsetrain
