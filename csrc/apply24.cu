#include "apply24.h"

#include "common/pack_both.cuh"

namespace sparsetrain {

std::tuple<Tensor, Tensor, Tensor, Tensor> apply24(const Tensor& x, const Tensor& mask,
                                                   std::optional<ScalarType> dtype) {
  check_groups("x", x);
  int64_t row_bytes = ceil_div(x.size(1), 8);
  Tensor bits = check_bytes("mask", mask, x, x.size(0), row_bytes);
  DeviceGuard guard(x.get_device_index());
  ScalarType type = dtype.value_or(x.scalar_type());
  PackedTensors out(x, type);
  Bits given{nullptr, static_cast<const uint8_t*>(bits.const_data_ptr()), nullptr, nullptr};
  if (x.numel() > 0) pack_both_forms(x, type, out.pointers(), given, "");
  return {out.values, out.meta, out.values_t, out.meta_t};
}

}  // namespace sparsetrain
