#pragma once

#include "common/host.h"

namespace sparsetrain {

// grad_h, z [R, C] of one type, float32, bfloat16 or float16, any strides; approximate "none" or
// "tanh", as PyTorch's. Returns grad_z = gelu'(z) grad_h and h = gelu(z), [R, C] contiguous in z's
// type, and column_sums float32 [C] of grad_z before it is rounded.
std::tuple<Tensor, Tensor, Tensor> gelu_backward(const Tensor& grad_h, const Tensor& z,
                                                 const std::string& approximate);

}  // namespace sparsetrain
