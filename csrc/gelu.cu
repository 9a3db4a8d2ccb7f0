#include "gelu.h"

#include "common/gelu.cuh"
#include "common/matrix.cuh"

namespace sparsetrain {
namespace {

constexpr int kThreads = 256;
constexpr int kLoads = 2;  // vectors of 16 bytes that a thread reads before it computes

// n values as they lie in memory; the last vector may be a part of one.
template <class T, class Function>
__global__ void __launch_bounds__(kThreads)
    gelu_kernel(const T* z, int64_t n, Function function, T* out) {
  constexpr int kValues = 16 / sizeof(T);
  int64_t first = (blockIdx.x * int64_t{kThreads * kLoads} + threadIdx.x) * kValues;
  alignas(16) T value[kLoads][kValues];
#pragma unroll
  for (int v = 0; v < kLoads; ++v) {
    int64_t i = first + v * kThreads * kValues;
    if (i + kValues <= n) reinterpret_cast<uint4&>(value[v]) = load_once(z + i);
  }
#pragma unroll
  for (int v = 0; v < kLoads; ++v) {
    int64_t i = first + v * kThreads * kValues;
    if (i + kValues <= n) {
      float result[kValues];
#pragma unroll
      for (int c = 0; c < kValues; ++c) result[c] = function(static_cast<float>(value[v][c])).value;
      store_values(result, out + i);
    } else {
      for (; i < n; ++i) out[i] = T(function(static_cast<float>(z[i])).value);
    }
  }
}

}  // namespace

Tensor gelu(const Tensor& z, const std::string& approximate) {
  check_matrix("z", z);
  DeviceGuard guard(z.get_device_index());
  Tensor values = aligned(z);
  Tensor out = torch::stable::new_empty(z, {z.size(0), z.size(1)});
  int64_t n = z.numel();
  int64_t blocks = ceil_div(n * z.element_size(), 16 * kThreads * kLoads);
  with_gelu(z.scalar_type(), approximate, [&](auto type, auto function) {
    if (n == 0) return;
    using T = typename decltype(type)::type;
    gelu_kernel<T><<<static_cast<unsigned>(blocks), kThreads, 0, current_stream(z)>>>(
        static_cast<const T*>(values.const_data_ptr()), n, function,
        static_cast<T*>(out.mutable_data_ptr()));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return out;
}

}  // namespace sparsetrain
