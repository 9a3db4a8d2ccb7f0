#pragma once

#include "common/host.h"

namespace sparsetrain {

// values [M, K/2], meta: packed 2:4, 8-bit; b [K0, N], K0 = K or padded_rows(K0) = K.
// (A * scales) (b * scales_b) + bias, [M, N] or transposed [N, M], in float32, rounded once to
// out_dtype. Scales by row, [M, 1] and [1, N], by block, [ceil(M/128), ceil(K/128)] and
// [ceil(K0/128), ceil(N/128)], or [1, 1]; bias float32 or out_dtype, along the last dimension of
// the result. b is copied where its columns are not contiguous from whole 16 bytes. int8 of 2^18
// columns or more and GPUs of another compute capability than 9.0 run the reference.
Tensor scaled_matmul24(const Tensor& values, const Tensor& meta, const Tensor& scales,
                       const Tensor& b, const Tensor& scales_b, const std::optional<Tensor>& bias,
                       bool transpose_out, ScalarType out_dtype);

}  // namespace sparsetrain
