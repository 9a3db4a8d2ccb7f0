#pragma once

#include "common/host.h"

namespace sparsetrain {

// z [R, C] float32, bfloat16 or float16; rule as in sparsify24.
// Returns values, meta, values_t, meta_t of h = relu(z)^2, rounded to z's type before the choice.
std::tuple<Tensor, Tensor, Tensor, Tensor> squared_relu24(const Tensor& z, const std::string& rule);

}  // namespace sparsetrain
