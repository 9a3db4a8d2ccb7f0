#include "add_mask24_.h"

#include "common/by_eight.cuh"

namespace sparsetrain {
namespace {

struct AddMasked {
  Matrix x;
  const uint8_t* mask;
  float kept, pruned;
  const float* scale;

  template <bool kVector, class T>
  __device__ void add(int64_t row, int64_t byte, int64_t row_bytes, float (&sum)[8]) const {
    float value[8];
    load_eight<kVector, T>(x, row, 8 * byte, value);
    uint32_t bits = mask[row * row_bytes + byte];
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      float factor = bits >> c & 1 ? kept : pruned;
      float term = factor == 0.0f ? 0.0f : __fmul_rn(value[c], factor);
      sum[c] = __fadd_rn(sum[c], scale ? __fmul_rn(term, *scale) : term);
    }
  }
};

template <class T, bool kVector>
__global__ void __launch_bounds__(256) add_mask24_kernel(Matrix out, AddMasked term) {
  int64_t row_bytes = (out.columns + 7) / 8;
  for (int64_t i = blockIdx.x * int64_t{256} + threadIdx.x; i < out.rows * row_bytes;
       i += gridDim.x * int64_t{256}) {
    int64_t row = i / row_bytes, byte = i % row_bytes;
    float sum[8];
    load_eight<kVector, T>(out, row, 8 * byte, sum);
    term.add<kVector, T>(row, byte, row_bytes, sum);
    store_eight<kVector, T>(out, row, 8 * byte, sum);
  }
}

}  // namespace

void add_mask24_(Tensor out, const Tensor& x, const Tensor& mask, double kept, double pruned,
                 const std::optional<Tensor>& scale) {
  check_groups("out", out);
  check_groups("x", x);
  STD_TORCH_CHECK(x.scalar_type() == out.scalar_type() && x.size(0) == out.size(0) &&
                      x.size(1) == out.size(1) && x.get_device_index() == out.get_device_index(),
                  "x: it should be of the dtype and shape of out, and on its device");
  Tensor bits = check_bytes("mask", mask, out, out.size(0), ceil_div(out.size(1), 8));
  if (scale) check_scalar("scale", *scale, ScalarType::Float, out);
  if (out.numel() == 0) return;
  DeviceGuard guard(out.get_device_index());
  AddMasked term{matrix_of(x), static_cast<const uint8_t*>(bits.const_data_ptr()),
                 static_cast<float>(kept), static_cast<float>(pruned),
                 scale ? static_cast<const float*>(scale->const_data_ptr()) : nullptr};
  Matrix to = matrix_of(out);
  to.data = out.mutable_data_ptr();
  bool vector = rows_are_vectors(out) && rows_are_vectors(x);
  with_type(out.scalar_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    auto kernel = vector ? add_mask24_kernel<T, true> : add_mask24_kernel<T, false>;
    kernel<<<blocks_by_eight(out), 256, 0, current_stream(out)>>>(to, term);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

}  // namespace sparsetrain
