#pragma once

#include "common/host.h"

namespace sparsetrain {

// grad_h [R, C]; meta, values_t, meta_t: what squared_relu24_quantize returned by `rule`, which has
// one exact mask for both orientations; values_t in grad_h's type. Of dz = 2 sqrt(h) grad_h where h
// lies: values [R, C/2] in `dtype` and scales [R, 1], which go with meta, values_t [C, R128/2],
// which goes with meta_t, and column_sums float32 [C]. In one pass where squared_relu24_quantize
// is; else in several.
std::tuple<Tensor, Tensor, Tensor, Tensor> squared_relu24_backward_quantize(
    const Tensor& grad_h, const Tensor& meta, const Tensor& values_t, const Tensor& meta_t,
    ScalarType dtype, bool power_of_two);

}  // namespace sparsetrain
