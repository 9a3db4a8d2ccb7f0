#pragma once

#include "common/host.h"

namespace sparsetrain {

// values [R, C/2], meta: packed along the rows -> values in float8_e4m3fn or int8, metadata in the
// order of 8-bit values, scales [R, 1] (reference/quantize24.py).
std::tuple<Tensor, Tensor, Tensor> narrow24(const Tensor& values, const Tensor& meta,
                                            ScalarType dtype, bool power_of_two);

}  // namespace sparsetrain
