// From sums of 8-bit values to the result: scale of the row of A, scale of the column of B, bias.
#pragma once

#include "epilogue.cuh"

namespace sparsetrain {

// The scales of a product of 8-bit values, and its bias, T or float32; 1 and 0 outside.
template <class T>
struct Scaled {
  static constexpr bool kScaled = true;
  const Arguments& of;

  // One rounding each, as the definition has it: the compiler would fuse the addition.
  __device__ static float scaled(float sum, float scale_a, float scale_b, float bias) {
    return __fadd_rn(__fmul_rn(__fmul_rn(sum, scale_a), scale_b), bias);
  }

  __device__ float scale_a(int row) const {
    return row < of.M ? __ldg(of.scales.a + int64_t{row} * of.scales.step_a) : 1.0f;
  }
  __device__ float scale_b(int column) const {
    return column < of.N ? __ldg(of.scales.b + int64_t{column} * of.scales.step_b) : 1.0f;
  }
  __device__ float bias(int at) const {
    if (of.epilogue.bias == nullptr || at >= of.epilogue.width) return 0.0f;
    if (of.wide_bias) return static_cast<const float*>(of.epilogue.bias)[at];
    return static_cast<float>(static_cast<const T*>(of.epilogue.bias)[at]);
  }

  __device__ void begin(int, int) const {}

  template <bool kTransposed, int kValues>
  __device__ void rows(float (&)[kValues], int) const {}

  template <bool kTransposed, int kColumns>
  __device__ void piece(float* d, int m, int n) const {
    const Place place;
    float of_rows[2], terms[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      of_rows[i] = scale_a(m + place.row(i));
      terms[i] = kTransposed ? bias(m + place.row(i)) : 0.0f;
    }
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        int column = n + 8 * j + place.column(e);
        float of_column = scale_b(column), term = kTransposed ? 0.0f : bias(column);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& sum = d[4 * j + 2 * i + e];
          sum = scaled(sum, of_rows[i], of_column, kTransposed ? terms[i] : term);
        }
      }
    }
  }
};

}  // namespace sparsetrain
