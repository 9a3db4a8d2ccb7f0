#pragma once

#include "common/host.h"

namespace sparsetrain {

// out += A b, or its transpose; values, meta and b as for matmul24. out [M, N] or [N, M],
// contiguous, of the type of values or float32; summed in float32 and rounded once.
void add_matmul24_(Tensor out, const Tensor& values, const Tensor& meta, const Tensor& b,
                   bool transpose_out);

}  // namespace sparsetrain
