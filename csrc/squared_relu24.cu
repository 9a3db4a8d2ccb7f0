#include "squared_relu24.h"

#include "common/pack_both.cuh"
#include "common/squared_relu.cuh"

namespace sparsetrain {

std::tuple<Tensor, Tensor, Tensor, Tensor> squared_relu24(const Tensor& z,
                                                          const std::string& rule) {
  check_groups("z", z);
  DeviceGuard guard(z.get_device_index());
  PackedTensors out(z, z.scalar_type());
  with_type(z.scalar_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    with_rule(rule, [&](auto chosen) {
      pack_both<T, T>(z, out.pointers(), Bits{}, chosen, SquaredRelu{});
    });
  });
  return {out.values, out.meta, out.values_t, out.meta_t};
}

}  // namespace sparsetrain
