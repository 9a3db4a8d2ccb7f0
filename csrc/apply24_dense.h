#pragma once

#include "common/host.h"

namespace sparsetrain {

// x, mask and dtype as apply24. Returns values and meta of x, or of its transpose, and x with zeros
// where the mask prunes, [R, C], all in dtype.
std::tuple<Tensor, Tensor, Tensor> apply24_dense(const Tensor& x, const Tensor& mask,
                                                 bool transposed, std::optional<ScalarType> dtype);

}  // namespace sparsetrain
