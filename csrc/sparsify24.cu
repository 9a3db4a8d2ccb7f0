#include "sparsify24.h"

#include "common/pack_both.cuh"

namespace sparsetrain {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> sparsify24(
    const Tensor& x, const std::string& rule, std::optional<ScalarType> dtype,
    const std::optional<Tensor>& previous) {
  check_groups("x", x);
  int64_t row_bytes = ceil_div(x.size(1), 8);
  std::optional<Tensor> old;
  if (previous) old = check_bytes("previous", *previous, x, x.size(0), row_bytes);
  DeviceGuard guard(x.get_device_index());

  ScalarType type = dtype.value_or(x.scalar_type());
  PackedTensors out(x, type);
  Tensor mask = torch::stable::new_empty(x, {x.size(0), row_bytes}, ScalarType::Byte);
  Tensor flips = torch::stable::new_empty(x, {}, ScalarType::Long);
  if (previous || x.numel() == 0)  // else the kernel writes the zero
    STD_CUDA_CHECK(
        cudaMemsetAsync(flips.mutable_data_ptr(), 0, sizeof(int64_t), current_stream(x)));

  Bits bits{static_cast<uint8_t*>(mask.mutable_data_ptr()), nullptr,
            old ? static_cast<const uint8_t*>(old->const_data_ptr()) : nullptr,
            static_cast<unsigned long long*>(flips.mutable_data_ptr())};
  pack_both_forms(x, type, out.pointers(), bits, rule);
  return {out.values, out.meta, out.values_t, out.meta_t, mask, flips};
}

}  // namespace sparsetrain
