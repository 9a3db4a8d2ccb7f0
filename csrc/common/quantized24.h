// A matrix quantized under a 2:4 mask and packed: what quantize24, quantize_both24 and
// quantize_across24 launch.
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

// By row, one orientation packed and the other dense, with its scales. columns: its transpose is
// packed, and x is dense; else the other way round.
std::tuple<Quantized24, Tensor, Tensor> quantize_across(const Tensor& x, const Tensor& mask,
                                                        ScalarType dtype, bool columns,
                                                        bool power_of_two);

}  // namespace sparsetrain
