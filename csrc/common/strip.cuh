// A strip: 4 rows x 8 columns of a matrix in registers, two 4x4 tiles side by side. Tile t is
// columns 4t to 4t+3. 16-bit types lie as words of two neighbouring columns, the lower one low.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace sparsetrain {

using bfloat16 = __nv_bfloat16;
using float16 = __half;

template <class T>
struct Strip {
  static_assert(sizeof(T) == 2);
  uint32_t word[4][4];
};

template <>
struct Strip<float> {
  float value[4][8];
};

// Two values kept of a group: what a tile gives to one row of a packed matrix.
template <class T>
using Pair = std::conditional_t<sizeof(T) == 2, uint32_t, uint2>;

template <class T>
struct alignas(2 * sizeof(Pair<T>)) TwoPairs {
  Pair<T> first, second;
};

__device__ inline uint32_t low_halves(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x5410); }
__device__ inline uint32_t high_halves(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x7632); }

// The value at a row and a column as float, exactly.
__device__ inline float value_at(const Strip<bfloat16>& x, int row, int column) {
  uint32_t word = x.word[row][column / 2];
  return __uint_as_float(column % 2 ? word & 0xffff0000u : word << 16);
}
__device__ inline float value_at(const Strip<float16>& x, int row, int column) {
  uint32_t word = x.word[row][column / 2];
  __half2 pair = reinterpret_cast<const __half2&>(word);
  return column % 2 ? __high2float(pair) : __low2float(pair);
}
__device__ inline float value_at(const Strip<float>& x, int row, int column) {
  return x.value[row][column];
}

// The larger of two; NaN if one is.
__device__ inline float max_nan(float a, float b) {
  float out;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(out) : "f"(a), "f"(b));
  return out;
}

// The largest magnitude of a tile; NaN if there is one.
__device__ inline float largest_magnitude(const Strip<bfloat16>& x, int tile) {
  const __nv_bfloat162(&pair)[4][4] = reinterpret_cast<const __nv_bfloat162(&)[4][4]>(x.word);
  __nv_bfloat162 largest = __habs2(pair[0][2 * tile]);
#pragma unroll
  for (int i = 1; i < 8; ++i)
    largest = __hmax2_nan(largest, __habs2(pair[i / 2][2 * tile + i % 2]));
  return __bfloat162float(__hmax_nan(__low2bfloat16(largest), __high2bfloat16(largest)));
}
__device__ inline float largest_magnitude(const Strip<float16>& x, int tile) {
  const __half2(&pair)[4][4] = reinterpret_cast<const __half2(&)[4][4]>(x.word);
  __half2 largest = __habs2(pair[0][2 * tile]);
#pragma unroll
  for (int i = 1; i < 8; ++i)
    largest = __hmax2_nan(largest, __habs2(pair[i / 2][2 * tile + i % 2]));
  return __half2float(__hmax_nan(__low2half(largest), __high2half(largest)));
}
__device__ inline float largest_magnitude(const Strip<float>& x, int tile) {
  float largest = 0;
#pragma unroll
  for (int i = 0; i < 16; ++i) largest = max_nan(largest, fabsf(x.value[i / 4][4 * tile + i % 4]));
  return largest;
}

// Two floats rounded to the nearest of T, the first one low.
__device__ inline uint32_t pair_of(bfloat16, float first, float second) {
  __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  return reinterpret_cast<uint32_t&>(pair);
}
__device__ inline uint32_t pair_of(float16, float first, float second) {
  __half2 pair = __floats2half2_rn(first, second);
  return reinterpret_cast<uint32_t&>(pair);
}
__device__ inline uint2 pair_of(float, float first, float second) {
  return make_uint2(__float_as_uint(first), __float_as_uint(second));
}

// A row of x, rounded to its type.
template <class T>
__device__ inline void set_row(Strip<T>& x, int row, const float (&value)[8]) {
#pragma unroll
  for (int c = 0; c < 8; ++c) {
    if constexpr (sizeof(T) == 4) {
      x.value[row][c] = value[c];
    } else if (c % 2 == 0) {
      x.word[row][c / 2] = pair_of(T(), value[c], value[c + 1]);
    }
  }
}

// Rounded to the nearest of another type.
template <class To, class From>
__device__ inline Strip<To> convert(const Strip<From>& x) {
  if constexpr (std::is_same_v<To, From>) {
    return x;
  } else {
    static_assert(std::is_same_v<From, float>, "16-bit types keep their type");
    Strip<To> out;
#pragma unroll
    for (int row = 0; row < 4; ++row) set_row(out, row, x.value[row]);
    return out;
  }
}

// Bit 16 t + 4 r + c of `kept` is row r, column 4t + c; the others become zero.
template <class T>
__device__ inline void zero_pruned(Strip<T>& x, uint32_t kept) {
#pragma unroll
  for (int row = 0; row < 4; ++row) {
#pragma unroll
    for (int column = 0; column < 8; ++column) {
      bool keep = kept >> (16 * (column / 4) + 4 * row + column % 4) & 1;
      if constexpr (sizeof(T) == 4) {
        x.value[row][column] = keep ? x.value[row][column] : 0.0f;
      } else {
        x.word[row][column / 2] &= keep ? 0xffffffffu : column % 2 ? 0x0000ffffu : 0xffff0000u;
      }
    }
  }
}

// Two neighbours, as floats.
__device__ inline float2 floats_of(bfloat16, uint32_t pair) {
  return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}
__device__ inline float2 floats_of(float16, uint32_t pair) {
  return __half22float2(reinterpret_cast<__half2&>(pair));
}
__device__ inline float2 floats_of(float, uint2 pair) {
  return make_float2(__uint_as_float(pair.x), __uint_as_float(pair.y));
}

}  // namespace sparsetrain
