#pragma once

#include "common/host.h"

namespace sparsetrain {

// quantize24 of x and of its transpose, padded to [C, padded_rows(R)], with one mask for both.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> quantize_both24(
    const Tensor& x, const Tensor& mask, ScalarType dtype, const std::string& scaling,
    bool power_of_two);

}  // namespace sparsetrain
