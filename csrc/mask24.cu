#include "mask24.h"

#include "common/by_eight.cuh"

namespace sparsetrain {
namespace {

struct Masked {
  const uint8_t* mask;
  float kept, pruned;

  __device__ void operator()(int64_t byte, float (&value)[8]) const {
    uint32_t bits = mask[byte];
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      float factor = bits >> c & 1 ? kept : pruned;
      value[c] = factor == 0.0f ? 0.0f : __fmul_rn(value[c], factor);
    }
  }
};

}  // namespace

Tensor mask24(const Tensor& x, const Tensor& mask, double kept, double pruned,
              std::optional<ScalarType> dtype) {
  check_groups("x", x);
  Tensor bits = check_bytes("mask", mask, x, x.size(0), ceil_div(x.size(1), 8));
  DeviceGuard guard(x.get_device_index());
  Tensor out = torch::stable::new_empty(x, {x.size(0), x.size(1)}, dtype.value_or(x.scalar_type()));
  by_eight(x, out,
           Masked{static_cast<const uint8_t*>(bits.const_data_ptr()), static_cast<float>(kept),
                  static_cast<float>(pruned)});
  return out;
}

}  // namespace sparsetrain
