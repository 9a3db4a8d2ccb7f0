#pragma once

#include "common/host.h"

namespace sparsetrain {

// grad_h [R, C]; values, meta, values_t, meta_t: what squared_relu24 returned, in grad_h's type.
// rule "transposable" or "transposable_l2": one mask serves both orientations, and values_t and
// meta_t are not read. Returns values, values_t of dz and column_sums float32 [C].
std::tuple<Tensor, Tensor, Tensor> squared_relu24_backward(const Tensor& grad_h,
                                                           const Tensor& values, const Tensor& meta,
                                                           const Tensor& values_t,
                                                           const Tensor& meta_t,
                                                           const std::string& rule);

}  // namespace sparsetrain
