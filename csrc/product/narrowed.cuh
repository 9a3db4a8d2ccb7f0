// From sums of 8-bit values to the next product's: GELU of the scaled sum, in e4m3, times what is
// given for its row of the result.
//
// e4m3 keeps four bits, so GELU is two values at a time in half, one `tanh.approx` each:
//     gelu(z) = h (1 + tanh(u(h))),  h = z / 2
// tanh.approx.f16x2 is off by 2^-10.987 at most (PTX ISA), so GELU by 2^-12 |z| and what half
// rounds. A product h * factor that half cannot hold becomes the largest one, before 1 + tanh.
#pragma once

#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "scaled.cuh"

namespace sparsetrain {

__device__ inline __half2 tanh_fast(__half2 x) {
  uint32_t out, in = *reinterpret_cast<uint32_t*>(&x);
  asm("tanh.approx.f16x2 %0, %1;" : "=r"(out) : "r"(in));
  return *reinterpret_cast<__half2*>(&out);
}

// Two values rounded to half; what is out of its range is the largest number.
__device__ inline __half2 to_finite_halves(float x, float y) {
  uint32_t out;
  asm("cvt.rn.satfinite.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(y), "f"(x));
  return *reinterpret_cast<__half2*>(&out);
}

// u of the exact GELU, h times a polynomial of h h, for which GELU is off by 2.5e-5 at most
// (fitted). It would turn back beyond |z| = 8; from 5.6 on tanh is 1 in half.
struct HalfNormalGelu {
  __device__ __half2 operator()(__half2 h) const {
    __half2 square = __hmin2(__hmul2(h, h), __float2half2_rn(8.0f));
    __half2 slope = __hfma2(square, __float2half2_rn(-0.011248537f), __float2half2_rn(0.29604517f));
    slope = __hfma2(square, slope, __float2half2_rn(1.5950158f));
    return __hmul2(h, slope);
  }
};

// u of the approximation with tanh: sqrt(2 / pi) (z + 0.044715 z z z).
struct HalfTanhGelu {
  __device__ __half2 operator()(__half2 h) const {
    __half2 slope = __float2half2_rn(0.28541926f);
    slope = __hfma2(__hmul2(h, h), slope, __float2half2_rn(1.5957691f));
    return __hmul2(h, slope);
  }
};

// Function: one of the two. The bias is float32.
template <class Function>
class ScaledGelu : public Scaled<float, __nv_bfloat16> {
  using Base = Scaled<float, __nv_bfloat16>;

 public:
  using Base::Base;

  template <int kRows, int kColumns>
  __device__ void begin(int m, int n) {
    static_assert((kRows + 2 * kColumns) * 4 <= kTermBytes<kRows, kColumns>);
    Base::template begin<kRows, kColumns>(m, n);
    factors_at_ = this->columns_at_ + kColumns * 4;
    for (int i = Place().thread; i < kColumns; i += 128) {
      ptx::copy_word(factors_at_ + i * 4, this->of_.factors_out + min(n + i, this->of_.N - 1));
    }
  }

  // Half of z, so that GELU needs no factor.
  template <bool kTransposed, int kValues>
  __device__ void rows(float (&d)[kValues], int m) {
    Base::template rows<kTransposed>(d, m);
#pragma unroll
    for (int i = 0; i < 2; ++i) this->scales_a_[i] *= 0.5f, this->bias_[i] *= 0.5f;
  }

  // Of the transposed product: a column of the sums is a row of the result. Of every four sums the
  // first becomes their four bytes.
  template <bool kTransposed, int kColumns>
  __device__ void piece(float* d, int m, int n) const {
    static_assert(kTransposed);
    Base::template piece<true, kColumns>(d, m, n);
    const Place place;
    const Function function{};
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
      float2 factor = ptx::words_at(factors_at_ + (n - this->n_ + 8 * j) * 4 + place.lane % 4 * 8);
      uint32_t bytes[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float* h = d + 4 * j + 2 * i;
        __half2 t = tanh_fast(function(__floats2half2_rn(h[0], h[1])));
        __half2 y = to_finite_halves(h[0] * factor.x, h[1] * factor.y);
        bytes[i] = __nv_cvt_halfraw2_to_fp8x2(__hfma2(y, t, y), __NV_SATFINITE, __NV_E4M3);
      }
      d[4 * j] = __uint_as_float(bytes[0] | bytes[1] << 16);
    }
  }

 private:
  uint32_t factors_at_;
};

}  // namespace sparsetrain
