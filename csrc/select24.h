#pragma once

#include "common/host.h"

namespace sparsetrain {

// x [R, C] float32, bfloat16 or float16; rule as in sparsify24.
// Returns the mask, uint8 [R, ceil(C/8)]: column c is bit c % 8 of byte c / 8.
Tensor select24(const Tensor& x, const std::string& rule);

}  // namespace sparsetrain
