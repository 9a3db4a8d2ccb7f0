#pragma once

#include "common/host.h"

namespace sparsetrain {

// values [M, K/2], meta: packed 2:4, float8_e4m3fn; b [K0, N], K0 = K or padded_rows(K0) = K.
// gelu(((A * scales) (b * scales_b)).T + bias) * factors_out in float8_e4m3fn, [N, M]. Scales by
// row or tensor: [M, 1], [1, N] or [1, 1]; factors_out [N, 1]; bias float32 [M]. b is copied where
// its columns are not contiguous from whole 16 bytes. Scales by block, M that is no multiple of 16
// and GPUs of another compute capability than 9.0 run the reference.
Tensor scaled_gelu_matmul24(const Tensor& values, const Tensor& meta, const Tensor& scales,
                            const Tensor& b, const Tensor& scales_b,
                            const std::optional<Tensor>& bias, const std::string& approximate,
                            const Tensor& factors_out);

}  // namespace sparsetrain
