#include "flips24.h"

#include "common/masks.cuh"

namespace sparsetrain {
namespace {

__global__ void __launch_bounds__(256) flips24_kernel(const uint8_t* mask, const uint8_t* previous,
                                                      int64_t bytes, unsigned long long* flips) {
  int count = 0;
  for (int64_t i = blockIdx.x * int64_t{256} + threadIdx.x; i < ceil_div(bytes, 16);
       i += gridDim.x * int64_t{256}) {
    if (16 * i + 16 <= bytes) {
      uint4 a = reinterpret_cast<const uint4*>(mask)[i];
      uint4 b = reinterpret_cast<const uint4*>(previous)[i];
      count += bits_of(a ^ b);
    } else {
      for (int64_t j = 16 * i; j < bytes; ++j)
        count += bits_of(static_cast<uint8_t>(mask[j] ^ previous[j]));
    }
  }
  count = __reduce_add_sync(0xffffffffu, count);
  if (threadIdx.x % 32 == 0 && count) atomicAdd(flips, static_cast<unsigned long long>(count));
}

}  // namespace

Tensor flips24(const Tensor& mask, const Tensor& previous) {
  STD_TORCH_CHECK(mask.scalar_type() == ScalarType::Byte,
                  "mask: ", torch::headeronly::toString(mask.scalar_type()),
                  " should be uint8, as select24 makes it");
  STD_TORCH_CHECK(previous.scalar_type() == ScalarType::Byte && mask.numel() == previous.numel(),
                  "previous: ", previous.numel(), " bytes should be ", mask.numel(),
                  " of uint8, those of mask; make both with select24");
  STD_TORCH_CHECK(mask.get_device_index() == previous.get_device_index(),
                  "previous: on another device than mask; move it");
  DeviceGuard guard(mask.get_device_index());
  cudaStream_t stream = current_stream(mask);
  Tensor flips = torch::stable::new_empty(mask, {}, ScalarType::Long);
  STD_CUDA_CHECK(cudaMemsetAsync(flips.mutable_data_ptr(), 0, sizeof(int64_t), stream));
  if (mask.numel() == 0) return flips;
  Tensor now = aligned(mask), then = aligned(previous);
  int64_t blocks = ceil_div(mask.numel(), 16 * 256);
  flips24_kernel<<<static_cast<unsigned>(blocks < 1056 ? blocks : 1056), 256, 0, stream>>>(
      static_cast<const uint8_t*>(now.const_data_ptr()),
      static_cast<const uint8_t*>(then.const_data_ptr()), mask.numel(),
      static_cast<unsigned long long*>(flips.mutable_data_ptr()));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return flips;
}

}  // namespace sparsetrain
