#pragma once

#include "common/host.h"

namespace sparsetrain {

// quantize_both24 of x [R, C] by row, of which one orientation is dense: values, meta and scales of
// x, then q [C, R] of its transpose and scales [C, 1]; or, if `columns`, those of its transpose,
// then q [R, C] and scales [R, 1].
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> quantize_across24(const Tensor& x,
                                                                     const Tensor& mask,
                                                                     ScalarType dtype, bool columns,
                                                                     bool power_of_two);

}  // namespace sparsetrain
