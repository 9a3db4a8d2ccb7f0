#pragma once

#include "common/host.h"

namespace sparsetrain {

// seed: int64, one element. Returns a mask uint8 [rows, ceil(columns/8)], each 4x4 tile a random
// one of the 90 patterns (sparsetrain/reference/random24.py).
Tensor random24(int64_t rows, int64_t columns, const Tensor& seed);

}  // namespace sparsetrain
