#pragma once

#include "common/host.h"

namespace sparsetrain {

// x [R, C], any strides -> q [R, C], float8_e4m3fn or int8, and float32 scales: [R, 1],
// [ceil(R/128), ceil(C/128)] or [1, 1] by row, block or tensor (reference/quantize.py). By tensor,
// and of float64, the reference runs.
std::tuple<Tensor, Tensor> quantize(const Tensor& x, ScalarType dtype, const std::string& scaling,
                                    bool power_of_two);

}  // namespace sparsetrain
