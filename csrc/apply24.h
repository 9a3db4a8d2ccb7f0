#pragma once

#include "common/host.h"

namespace sparsetrain {

// x [R, C] float32, bfloat16 or float16; mask uint8 [R, ceil(C/8)]; dtype of the values: x's if
// none, bfloat16 or float16 also from float32. Returns values, meta, values_t, meta_t. Where the
// mask keeps more than two of a group, the two lowest are kept: looking would mean waiting.
std::tuple<Tensor, Tensor, Tensor, Tensor> apply24(const Tensor& x, const Tensor& mask,
                                                   std::optional<ScalarType> dtype);

}  // namespace sparsetrain
