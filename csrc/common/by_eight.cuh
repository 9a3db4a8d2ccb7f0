// Element-wise kernels: a thread takes eight neighbouring values of a row.
#pragma once

#include "matrix.cuh"

namespace sparsetrain {

// Eight values, from a place of 16 bytes, to one; zeros past the last column.
template <bool kVector, class T>
__device__ inline void load_raw(const Matrix& x, int64_t row, int64_t column, T (&raw)[8]) {
  const T* from = static_cast<const T*>(x.data) + row * x.row_stride + column * x.column_stride;
  if constexpr (kVector) {
#pragma unroll
    for (int w = 0; w < static_cast<int>(sizeof(raw) / 16); ++w)
      reinterpret_cast<uint4*>(raw)[w] = reinterpret_cast<const uint4*>(from)[w];
  } else {
#pragma unroll
    for (int c = 0; c < 8; ++c)
      raw[c] = column + c < x.columns ? from[c * x.column_stride] : T(0.0f);
  }
}

// The same as float.
template <bool kVector, class T>
__device__ inline void load_eight(const Matrix& x, int64_t row, int64_t column, float (&value)[8]) {
  alignas(16) T raw[8];
  load_raw<kVector>(x, row, column, raw);
#pragma unroll
  for (int c = 0; c < 8; ++c) value[c] = static_cast<float>(raw[c]);
}

// Rounded to T, to the same place of `out`.
template <bool kVector, class T>
__device__ inline void store_eight(const Matrix& out, int64_t row, int64_t column,
                                   const float (&value)[8]) {
  T* to = static_cast<T*>(const_cast<void*>(out.data)) + row * out.row_stride +
          column * out.column_stride;
  alignas(16) T raw[8];
#pragma unroll
  for (int c = 0; c < 8; ++c) raw[c] = T(value[c]);
  if constexpr (kVector) {
#pragma unroll
    for (int w = 0; w < static_cast<int>(sizeof(raw) / 16); ++w)
      reinterpret_cast<uint4*>(to)[w] = reinterpret_cast<const uint4*>(raw)[w];
  } else {
#pragma unroll
    for (int c = 0; c < 8; ++c)
      if (column + c < out.columns) to[c * out.column_stride] = raw[c];
  }
}

// out = function(byte of the mask, eight values) for all of x.
template <class In, class Out, bool kVector, class Function>
__global__ void __launch_bounds__(256) by_eight_kernel(Matrix x, Function function, Matrix out) {
  int64_t row_bytes = (x.columns + 7) / 8;
  for (int64_t i = blockIdx.x * int64_t{256} + threadIdx.x; i < x.rows * row_bytes;
       i += gridDim.x * int64_t{256}) {
    int64_t row = i / row_bytes, byte = i % row_bytes;
    float value[8];
    load_eight<kVector, In>(x, row, 8 * byte, value);
    function(i, value);
    store_eight<kVector, Out>(out, row, 8 * byte, value);
  }
}

inline unsigned blocks_by_eight(const Tensor& x) {
  int64_t blocks = ceil_div(x.size(0) * ceil_div(x.size(1), 8), 256);
  return static_cast<unsigned>(blocks < 0x7fffffff ? blocks : 0x7fffffff);
}

// out: new, contiguous, in x's type or, of float32, in any.
template <class Function>
void by_eight(const Tensor& x, Tensor& out, const Function& function) {
  if (x.numel() == 0) return;
  Matrix to = matrix_of(out);
  to.data = out.mutable_data_ptr();
  with_types(x.scalar_type(), out.scalar_type(), [&](auto in, auto rounded) {
    using In = typename decltype(in)::type;
    using Out = typename decltype(rounded)::type;
    auto kernel = rows_are_vectors(x) ? by_eight_kernel<In, Out, true, Function>
                                      : by_eight_kernel<In, Out, false, Function>;
    kernel<<<blocks_by_eight(x), 256, 0, current_stream(x)>>>(matrix_of(x), function, to);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

}  // namespace sparsetrain
