#pragma once

#include "common/host.h"

namespace sparsetrain {

// x [R, C] float32, bfloat16 or float16. Returns float32 [C]: the sums over rows, always in the
// same order.
Tensor column_sums(const Tensor& x);

}  // namespace sparsetrain
