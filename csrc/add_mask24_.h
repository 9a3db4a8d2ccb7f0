#pragma once

#include "common/host.h"

namespace sparsetrain {

// out [R, C] += scale * x * where(mask, kept, pruned); x of the type and shape of out, float32,
// bfloat16 or float16; mask uint8 [R, ceil(C/8)]; scale float32, one element, 1 if none.
void add_mask24_(Tensor out, const Tensor& x, const Tensor& mask, double kept, double pruned,
                 const std::optional<Tensor>& scale);

}  // namespace sparsetrain
