#pragma once

#include "common/host.h"

namespace sparsetrain {

// z [R, C] float32, bfloat16 or float16, any strides; approximate "none" or "tanh", as PyTorch's.
// Returns gelu(z), [R, C] contiguous, in z's type.
Tensor gelu(const Tensor& z, const std::string& approximate);

}  // namespace sparsetrain
