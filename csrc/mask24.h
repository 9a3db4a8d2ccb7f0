#pragma once

#include "common/host.h"

namespace sparsetrain {

// x [R, C] float32, bfloat16 or float16; mask uint8 [R, ceil(C/8)].
// Returns x * where(mask, kept, pruned), [R, C]; a factor of 0 gives exactly 0. dtype: x's if
// absent, of float32 any; rounded once.
Tensor mask24(const Tensor& x, const Tensor& mask, double kept, double pruned,
              std::optional<ScalarType> dtype);

}  // namespace sparsetrain
