// Matrices in 8 bits with scales: what quantize, quantize24, quantize_both24 and narrow24 launch.
#pragma once

#include "host.h"

namespace sparsetrain {

// What reference/quantize.py calls dtype, scaling and power_of_two.
struct Quantizing {
  ScalarType dtype;
  const std::string& scaling;
  bool power_of_two;
};

constexpr int kBlock = 128;  // rows and columns that share a scale "by block"

void check_quantizing(const Quantizing& how);

// q, contiguous, and its scales. By tensor, and of float64, the reference runs.
std::tuple<Tensor, Tensor> quantize_matrix(const Tensor& x, const Quantizing& how);

// Metadata of 16-bit values of a [rows, columns] matrix, in the order of 8-bit values.
Tensor narrow_meta(const Tensor& meta, int64_t rows, int64_t columns);

// 8-bit values, metadata and scales, by row or tensor, of a packed [rows, columns] matrix.
std::tuple<Tensor, Tensor, Tensor> narrow(const Tensor& values, const Tensor& meta, int64_t rows,
                                          int64_t columns, const Quantizing& how);

}  // namespace sparsetrain
