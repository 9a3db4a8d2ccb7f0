// GELU of one value, and its slope.
#pragma once

#include "host.h"
#include "strip.cuh"

namespace sparsetrain {

struct Gelu {
  float value;  // z Phi(z)
  float slope;  // Phi(z) + z phi(z)
};

__device__ inline float exp2_fast(float x) {
  float out;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
  return out;
}
__device__ inline float reciprocal_fast(float x) {
  float out;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
  return out;
}

// For 16-bit types. The tail of the normal distribution is exp(-z z / 2) times a polynomial in
// 1 / (1 + 0.31 |z|), in the form of Abramowitz and Stegun 7.1.26; its coefficients make the error
// small against the tail itself (2.3e-5 of it; 1.1e-6 of a slope), so that values far on the left
// keep all the bits of a 16-bit type. The density takes the same exponential. Operations are
// written out: every kernel rounds alike.
struct NormalGelu {
  __device__ Gelu operator()(float z) const {
    float density = exp2_fast(__fmul_rn(__fmul_rn(z, -0.72134752f), z));
    float t = reciprocal_fast(__fmaf_rn(0.31f, fabsf(z), 1.0f));
    float tail = __fmaf_rn(-0.0710775122f, t, 0.171969387f);
    tail = __fmaf_rn(tail, t, 0.0251899985f);
    tail = __fmaf_rn(tail, t, 0.128584722f);
    tail = __fmaf_rn(tail, t, 0.121564361f);
    tail = __fmaf_rn(tail, t, 0.123768171f);
    tail = __fmul_rn(__fmul_rn(tail, t), density);
    float below = z > 0.0f ? __fsub_rn(1.0f, tail) : tail;
    return {__fmul_rn(z, below), __fmaf_rn(__fmul_rn(z, density), 0.398942280f, below)};
  }
};

// For 16-bit types, the approximation with tanh: 0.5 (1 + tanh(u)) = 1 / (1 + exp(-2 u)) with
// u = sqrt(2 / pi) (z + 0.044715 z z z).
struct TanhGelu {
  __device__ Gelu operator()(float z) const {
    float square = __fmul_rn(z, z);
    float exponent = __fmul_rn(z, __fmaf_rn(square, -0.102943240f, -2.30220820f));
    float below = reciprocal_fast(__fadd_rn(1.0f, exp2_fast(exponent)));
    float value = __fmul_rn(z, below);
    float inner = __fmaf_rn(square, 0.214064449f, 1.59576912f);
    return {value, __fmaf_rn(__fmul_rn(value, __fsub_rn(1.0f, below)), inner, below)};
  }
};

// For float32, PyTorch's own formulas.
struct ExactNormalGelu {
  __device__ Gelu operator()(float z) const {
    float below = __fmul_rn(0.5f, __fadd_rn(1.0f, erff(__fmul_rn(z, 0.707106781f))));
    float density = __fmul_rn(0.398942280f, expf(__fmul_rn(__fmul_rn(-0.5f, z), z)));
    return {__fmul_rn(z, below), __fmaf_rn(z, density, below)};
  }
};
struct ExactTanhGelu {
  __device__ Gelu operator()(float z) const {
    float square = __fmul_rn(z, z), half = __fmul_rn(0.5f, z);
    float tanh = tanhf(__fmul_rn(0.797884561f, __fmaf_rn(0.044715f, __fmul_rn(square, z), z)));
    float below = __fadd_rn(1.0f, tanh);
    float inner = __fmul_rn(0.797884561f, __fmaf_rn(0.134145f, square, 1.0f));
    float bend = __fmul_rn(half, __fmaf_rn(-tanh, tanh, 1.0f));
    return {__fmul_rn(half, below), __fmaf_rn(bend, inner, __fmul_rn(0.5f, below))};
  }
};

// Rounded to T: 16 bytes, or one value. As assembly, because the compiler may take a store of 16
// bytes apart.
template <class T, int kCount>
__device__ inline void store_values(const float (&value)[kCount], T* to) {
  uint32_t word[4];
  if constexpr (kCount == 1) {
    *to = T(value[0]);
    return;
  } else if constexpr (sizeof(T) == 4) {
#pragma unroll
    for (int i = 0; i < 4; ++i) word[i] = __float_as_uint(value[i]);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) word[i] = pair_of(T(), value[2 * i], value[2 * i + 1]);
  }
  if constexpr (kCount > 1)
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(word[0]), "r"(word[1]),
                 "r"(word[2]), "r"(word[3])
                 : "memory");
}

// Calls f with the C++ type of a matrix and with the functor of it and of `approximate`.
template <class F>
void with_gelu(ScalarType type, const std::string& approximate, F f) {
  STD_TORCH_CHECK(approximate == "none" || approximate == "tanh", "approximate: '", approximate,
                  "' is unknown; use one of none, tanh");
  bool tanh = approximate == "tanh";
  with_type(type, [&](auto chosen) {
    if constexpr (sizeof(typename decltype(chosen)::type) == 4) {
      return tanh ? f(chosen, ExactTanhGelu{}) : f(chosen, ExactNormalGelu{});
    } else {
      return tanh ? f(chosen, TanhGelu{}) : f(chosen, NormalGelu{});
    }
  });
}

}  // namespace sparsetrain
