#include "soft_threshold24.h"

#include "common/by_eight.cuh"

namespace sparsetrain {
namespace {

__device__ inline float min_nan(float a, float b) {
  float out;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(out) : "f"(a), "f"(b));
  return out;
}

struct SoftThreshold {
  const float* scale;

  __device__ void operator()(int64_t, float (&value)[8]) const {
    float factor = *scale;
#pragma unroll
    for (int g = 0; g < 8; g += 4) {
      float a = fabsf(value[g]), b = fabsf(value[g + 1]), c = fabsf(value[g + 2]),
            d = fabsf(value[g + 3]);
      // The second smallest; NaN if there is one.
      float threshold =
          min_nan(max_nan(min_nan(a, b), min_nan(c, d)), min_nan(max_nan(a, b), max_nan(c, d)));
#pragma unroll
      for (int i = g; i < g + 4; ++i) {
        float magnitude = max_nan(__fsub_rn(fabsf(value[i]), threshold), 0.0f);
        value[i] = __fmul_rn(factor, copysignf(magnitude, value[i]));
      }
    }
  }
};

}  // namespace

Tensor soft_threshold24(const Tensor& x, const Tensor& scale, std::optional<ScalarType> dtype) {
  check_groups("x", x);
  check_scalar("scale", scale, ScalarType::Float, x);
  DeviceGuard guard(x.get_device_index());
  Tensor out = torch::stable::new_empty(x, {x.size(0), x.size(1)}, dtype.value_or(x.scalar_type()));
  by_eight(x, out, SoftThreshold{static_cast<const float*>(scale.const_data_ptr())});
  return out;
}

}  // namespace sparsetrain
