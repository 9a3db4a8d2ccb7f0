#pragma once

#include "common/host.h"

namespace sparsetrain {

// values [M, K/2], meta: packed 2:4, bfloat16 or float16; b [K0, N] of any strides, K0 = K or
// padded_rows(K0) = K. activation(A b + bias) + residual, [M, N] or transposed [N, M], in float32,
// rounded once to out_dtype. bias along the last dimension of the result; residual of its shape.
// Multiplies kept values only: a NaN of b meets no pruned zero. Needs compute capability 9.0.
// float32 operands run the reference.
Tensor matmul24(const Tensor& values, const Tensor& meta, const Tensor& b,
                const std::optional<Tensor>& bias, bool transpose_out,
                std::optional<ScalarType> out_dtype, const std::string& activation,
                const std::optional<Tensor>& residual);

}  // namespace sparsetrain
