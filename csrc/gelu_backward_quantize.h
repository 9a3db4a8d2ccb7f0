#pragma once

#include "common/host.h"

namespace sparsetrain {

// gelu_backward(grad_h, z, approximate), and quantize(grad_z, dtype, "row", power_of_two): grad_z,
// h, column_sums, q [R, C], float32 scales [R, 1]. In one pass for float8_e4m3fn from 16-bit rows
// of up to 1024 whole vectors of 16 bytes; else in two. The order of a column's sum is fixed, and
// not gelu_backward's.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> gelu_backward_quantize(
    const Tensor& grad_h, const Tensor& z, const std::string& approximate, ScalarType dtype,
    bool power_of_two);

}  // namespace sparsetrain
