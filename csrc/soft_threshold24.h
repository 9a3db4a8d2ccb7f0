#pragma once

#include "common/host.h"

namespace sparsetrain {

// x [R, C] float32, bfloat16 or float16; scale float32, one element on x's device.
// Returns scale * sign(x) * max(|x| - t, 0), t the second smallest magnitude of every four.
Tensor soft_threshold24(const Tensor& x, const Tensor& scale, std::optional<ScalarType> dtype);

}  // namespace sparsetrain
