#pragma once

#include "common/host.h"

namespace sparsetrain {

// x [R, C] float32, bfloat16 or float16; seed int64, one element on x's device.
// Returns values_t and meta_t of a sample along tokens (sparsetrain/reference/mvue24.py).
std::tuple<Tensor, Tensor> mvue24(const Tensor& x, const Tensor& seed);

}  // namespace sparsetrain
