#include "gelu_quantize.h"

#include "common/gelu.cuh"
#include "common/quantize_rows.cuh"
#include "common/quantized.h"
#include "gelu.h"

namespace sparsetrain {
namespace {

// The value of a GELU, rounded to the type of z.
template <class Function>
struct Rounded {
  Function function;

  template <class T>
  __device__ void operator()(T (&z)[8]) const {
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      float low = function(static_cast<float>(z[2 * w])).value;
      float high = function(static_cast<float>(z[2 * w + 1])).value;
      reinterpret_cast<uint32_t*>(z)[w] = pair_of(T(), low, high);
    }
  }
};

}  // namespace

std::tuple<Tensor, Tensor> gelu_quantize(const Tensor& z, const std::string& approximate,
                                         ScalarType dtype, bool power_of_two) {
  check_matrix("z", z);
  Quantizing how{dtype, "row", power_of_two};
  check_quantizing(how);
  bool one_pass = rows_are_vectors(z) && z.element_size() == 2;
  if (!one_pass || z.numel() == 0) return quantize_matrix(gelu(z, approximate), how);

  DeviceGuard guard(z.get_device_index());
  Tensor q = torch::stable::new_empty(z, {z.size(0), z.size(1)}, dtype);
  Tensor scales = torch::stable::new_empty(z, {z.size(0), 1}, ScalarType::Float);
  To to{q.mutable_data_ptr(), static_cast<float*>(scales.mutable_data_ptr()), power_of_two};
  with_gelu(z.scalar_type(), approximate, [&](auto type, auto function) {
    using T = typename decltype(type)::type;
    if constexpr (sizeof(T) == 2) {
      Rounded<decltype(function)> map{function};
      dtype == ScalarType::Char ? launch_rows<T, int8_t, true>(z, to, map)
                                : launch_rows<T, __nv_fp8_e4m3, true>(z, to, map);
    }
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {q, scales};
}

}  // namespace sparsetrain
