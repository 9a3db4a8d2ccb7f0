#pragma once

#include "common/host.h"

namespace sparsetrain {

// A b + bias as matmul24 gives it, and its columns summed over its rows before they are rounded:
// float32, one for each column.
std::tuple<Tensor, Tensor> matmul24_sums(const Tensor& values, const Tensor& meta, const Tensor& b,
                                         const std::optional<Tensor>& bias, bool transpose_out);

}  // namespace sparsetrain
