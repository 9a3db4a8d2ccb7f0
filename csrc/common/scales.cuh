// The numbers of reference/quantize.py: an inverse scale of a largest magnitude, values in 8 bits.
#pragma once

#include <cuda_fp8.h>

#include <cstdint>

namespace sparsetrain {

template <class Q>
struct EightBits;

template <>
struct EightBits<__nv_fp8_e4m3> {
  static constexpr float kLargest = 448.0f;
  __device__ static uint32_t four(const float (&v)[4]) {
    uint32_t low = __nv_cvt_float2_to_fp8x2({v[0], v[1]}, __NV_SATFINITE, __NV_E4M3);
    uint32_t high = __nv_cvt_float2_to_fp8x2({v[2], v[3]}, __NV_SATFINITE, __NV_E4M3);
    return low | high << 16;
  }
};

template <>
struct EightBits<int8_t> {
  static constexpr float kLargest = 127.0f;
  __device__ static uint32_t four(const float (&v)[4]) {
    uint32_t word = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float finite = v[i] == v[i] ? fminf(fmaxf(v[i], -kLargest), kLargest) : 0.0f;
      word |= (static_cast<uint32_t>(__float2int_rn(finite)) & 0xff) << 8 * i;
    }
    return word;
  }
};

// Magnitudes as bits: a NaN is the largest of all, and shows.
__device__ inline uint32_t magnitude(float x) { return __float_as_uint(x) & 0x7fffffff; }

template <class Q>
__device__ float inverse_of(uint32_t largest_magnitude, bool power_of_two) {
  float amax = __uint_as_float(largest_magnitude);
  amax = amax < 1e-12f ? 1e-12f : amax;  // a NaN stays
  float inverse = __fdiv_rn(EightBits<Q>::kLargest, amax);
  if (!power_of_two || inverse != inverse) return inverse;
  return __uint_as_float(__float_as_uint(inverse) & 0x7f800000);
}

}  // namespace sparsetrain
