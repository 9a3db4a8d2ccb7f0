// A matrix quantized under a 2:4 mask and packed: what quantize24 and quantize_both24 launch.
#pragma once

#include "quantized.h"

namespace sparsetrain {

// Values in 8 bits, metadata and scales.
using Quantized24 = std::tuple<Tensor, Tensor, Tensor>;

// x [R, C] along its rows and, if `both`, its transpose, padded to [C, padded_rows(R)]; else the
// second one is empty. mask: one for both. By tensor, and by row of an x without elements, through
// the type of x.
std::tuple<Quantized24, Quantized24> quantize_packed(const Tensor& x, const Tensor& mask,
                                                     const Quantizing& how, bool both);

}  // namespace sparsetrain
