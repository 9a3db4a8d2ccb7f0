#include "apply24_dense.h"

#include "common/pack_both.cuh"

namespace sparsetrain {

std::tuple<Tensor, Tensor, Tensor> apply24_dense(const Tensor& x, const Tensor& mask,
                                                 bool transposed, std::optional<ScalarType> dtype) {
  check_groups("x", x);
  Tensor bits = check_bytes("mask", mask, x, x.size(0), ceil_div(x.size(1), 8));
  DeviceGuard guard(x.get_device_index());
  ScalarType type = dtype.value_or(x.scalar_type());
  Tensor values = transposed ? new_values_t(x, type) : new_values(x, type);
  Tensor meta = transposed ? new_meta_t(x) : new_meta(x);
  Tensor dense = torch::stable::new_empty(x, {x.size(0), x.size(1)}, type);
  void* to_values = values.mutable_data_ptr();
  auto* to_meta = static_cast<uint8_t*>(meta.mutable_data_ptr());
  Packed packed{};
  (transposed ? packed.values_t : packed.values) = to_values;
  (transposed ? packed.meta_t : packed.meta) = to_meta;
  packed.dense = dense.mutable_data_ptr();
  Bits given{nullptr, static_cast<const uint8_t*>(bits.const_data_ptr()), nullptr, nullptr};
  with_types(x.scalar_type(), type, [&](auto in, auto to) {
    pack_both<typename decltype(in)::type, typename decltype(to)::type, true>(x, packed, given,
                                                                              Given{}, Identity{});
  });
  return {values, meta, dense};
}

}  // namespace sparsetrain
