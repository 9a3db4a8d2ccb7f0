// A matrix in memory, and how a thread reads a strip of it.
#pragma once

#include "host.h"
#include "strip.cuh"

namespace sparsetrain {

struct Matrix {
  const void* data;
  int64_t rows, columns, row_stride, column_stride;  // strides in elements
};

inline Matrix matrix_of(const Tensor& x) {
  return {x.const_data_ptr(), x.size(0), x.size(1), x.stride(0), x.stride(1)};
}

// Whether each strip's rows are whole, aligned 16-byte vectors.
inline bool rows_are_vectors(const Tensor& x) {
  int64_t bytes = x.element_size();
  return x.stride(1) == 1 && x.size(1) % 8 == 0 && x.stride(0) * bytes % 16 == 0 &&
         reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0;
}

// A vector that is read once: it need not stay in the L1 cache.
__device__ inline uint4 load_once(const void* from) {
  uint4 out;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(out.x), "=r"(out.y), "=r"(out.z), "=r"(out.w)
      : "l"(from));
  return out;
}

// Four rows of eight values, zeros outside the matrix, of which `left` rows are left.
// `kVector`: rows_are_vectors.
template <bool kVector, class T>
__device__ inline void load_strip(const Matrix& x, int64_t row, int64_t column, int left,
                                  Strip<T>& out) {
  constexpr int kWords = sizeof(T) * 8 / 16;
  const T* from = static_cast<const T*>(x.data) + row * x.row_stride + column * x.column_stride;
#pragma unroll
  for (int r = 0; r < 4; ++r, from += x.row_stride) {
    uint4* words = reinterpret_cast<uint4*>(&out) + r * kWords;
    if constexpr (kVector) {
#pragma unroll
      for (int w = 0; w < kWords; ++w)
        words[w] =
            r < left ? load_once(reinterpret_cast<const uint4*>(from) + w) : make_uint4(0, 0, 0, 0);
    } else {
      alignas(16) T value[8];
#pragma unroll
      for (int c = 0; c < 8; ++c)
        value[c] = r < left && column + c < x.columns ? from[c * x.column_stride] : T(0.0f);
#pragma unroll
      for (int w = 0; w < kWords; ++w) words[w] = reinterpret_cast<const uint4*>(value)[w];
    }
  }
}

// The same place of a contiguous matrix of x's size.
template <bool kVector, class T>
__device__ inline void store_strip(const Strip<T>& strip, const Matrix& x, int64_t row,
                                   int64_t column, int left, T* to) {
  constexpr int kWords = sizeof(T) * 8 / 16;
  to += row * x.columns + column;
#pragma unroll
  for (int r = 0; r < 4; ++r, to += x.columns) {
    const uint4* words = reinterpret_cast<const uint4*>(&strip) + r * kWords;
    if (r >= left) continue;
    if constexpr (kVector) {
#pragma unroll
      for (int w = 0; w < kWords; ++w) reinterpret_cast<uint4*>(to)[w] = words[w];
    } else {
      alignas(16) T value[8];
#pragma unroll
      for (int w = 0; w < kWords; ++w) reinterpret_cast<uint4*>(value)[w] = words[w];
#pragma unroll
      for (int c = 0; c < 8; ++c)
        if (column + c < x.columns) to[c] = value[c];
    }
  }
}

}  // namespace sparsetrain
