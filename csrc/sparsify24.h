#pragma once

#include "common/host.h"

namespace sparsetrain {

// x [R, C] float32, bfloat16 or float16; rule "transposable", "transposable_l2", "row", "greedy";
// dtype of the values: x's if none, bfloat16 or float16 also from float32; previous: a mask.
// Returns values, meta, values_t, meta_t (sparsetrain/reference/pack24.py), mask
// uint8 [R, ceil(C/8)], flips int64 [].
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> sparsify24(
    const Tensor& x, const std::string& rule, std::optional<ScalarType> dtype,
    const std::optional<Tensor>& previous);

}  // namespace sparsetrain
