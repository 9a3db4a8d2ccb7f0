// relu(z)^2, rounded once to the type of z, and its gradient. NaN stays NaN.
#pragma once

#include "strip.cuh"

namespace sparsetrain {

struct SquaredRelu {
  __device__ void operator()(Strip<bfloat16>& z) const {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      auto& pair = reinterpret_cast<__nv_bfloat162&>(z.word[i / 4][i % 4]);
      pair = __hmax2_nan(pair, __nv_bfloat162(bfloat16(0.0f), bfloat16(0.0f)));
      pair = __hmul2(pair, pair);
    }
  }
  __device__ void operator()(Strip<float16>& z) const {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      auto& pair = reinterpret_cast<__half2&>(z.word[i / 4][i % 4]);
      pair = __hmax2_nan(pair, __half2(float16(0.0f), float16(0.0f)));
      pair = __hmul2(pair, pair);
    }
  }
  __device__ void operator()(Strip<float>& z) const {
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      float& value = z.value[i / 8][i % 8];
      value = value <= 0.0f ? 0.0f : value * value;
    }
  }
};

// dz of one value: 2 sqrt(h) grad, and 0 where h is.
template <class T>
__device__ inline float squared_relu_gradient(float h, float grad) {
  float root;
  if constexpr (sizeof(T) == 2) {
    asm("sqrt.approx.f32 %0, %1;" : "=f"(root) : "f"(h));
  } else {
    root = __fsqrt_rn(h);
  }
  return h == 0.0f ? 0.0f : 2.0f * root * grad;
}

}  // namespace sparsetrain
