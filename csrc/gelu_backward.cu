#include "gelu_backward.h"

#include <algorithm>

#include "common/gelu.cuh"
#include "common/matrix.cuh"
#include "common/sum_rows.h"

namespace sparsetrain {
namespace {

constexpr int kWarps = 8;
constexpr int kBlocks = 4;  // on a multiprocessor: what they read at a time is enough

struct Results {
  void* grad_z;  // [rows, columns]
  void* h;       // [rows, columns]
  float* sums;   // [stretches, columns]
};

// 16 bytes as they are read and written, or one value.
template <class T, bool kVector>
struct Values {
  static constexpr int kCount = kVector ? 16 / sizeof(T) : 1;
  alignas(kVector ? 16 : sizeof(T)) T value[kCount];

  __device__ void load(const Matrix& x, int64_t row, int64_t column) {
    const T* from = static_cast<const T*>(x.data) + row * x.row_stride + column * x.column_stride;
    if constexpr (kVector) {
      reinterpret_cast<uint4&>(value) = load_once(from);
    } else {
      value[0] = *from;
    }
  }
};

// A block takes a stretch of rows of 32 vectors, or 32 values, side by side.
template <class T, bool kVector, class Function>
__global__ void __launch_bounds__(32 * kWarps, kBlocks)
    gelu_backward_kernel(Matrix grad_h, Matrix z, int64_t stretch, Function function,
                         Results results) {
  using Loaded = Values<T, kVector>;
  constexpr int kCount = Loaded::kCount;
  __shared__ float partial[kWarps][32 * kCount];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int64_t column = (blockIdx.x * int64_t{32} + lane) * kCount;
  int64_t first = blockIdx.y * stretch, last = min(first + stretch, z.rows);

  float total[kCount] = {};
  if (column < z.columns) {
    for (int64_t row = first + warp; row < last; row += kWarps) {
      Loaded grad, input;
      grad.load(grad_h, row, column);
      input.load(z, row, column);
      float grad_z[kCount], h[kCount];
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        Gelu gelu = function(static_cast<float>(input.value[i]));
        h[i] = gelu.value;
        grad_z[i] = __fmul_rn(gelu.slope, static_cast<float>(grad.value[i]));
        total[i] = __fadd_rn(total[i], grad_z[i]);
      }
      int64_t to = row * z.columns + column;
      store_values(grad_z, static_cast<T*>(results.grad_z) + to);
      store_values(h, static_cast<T*>(results.h) + to);
    }
  }

  // Add up the warps, in their order.
#pragma unroll
  for (int i = 0; i < kCount; ++i) partial[warp][i * 32 + lane] = total[i];
  __syncthreads();
  for (int i = threadIdx.x; i < 32 * kCount; i += 32 * kWarps) {
    int64_t to = (blockIdx.x * int64_t{32} + i % 32) * kCount + i / 32;
    if (to >= z.columns) continue;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += partial[w][i];
    results.sums[blockIdx.y * z.columns + to] = sum;
  }
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> gelu_backward(const Tensor& grad_h, const Tensor& z,
                                                 const std::string& approximate) {
  check_matrix("grad_h", grad_h);
  check_matrix("z", z);
  STD_TORCH_CHECK(z.scalar_type() == grad_h.scalar_type(),
                  "z: ", torch::headeronly::toString(z.scalar_type()), " should be ",
                  torch::headeronly::toString(grad_h.scalar_type()), ", as grad_h is");
  STD_TORCH_CHECK(z.size(0) == grad_h.size(0) && z.size(1) == grad_h.size(1), "z: shape ",
                  shape_of(z), " should be ", shape_of(grad_h), ", that of grad_h");
  STD_TORCH_CHECK(z.get_device_index() == grad_h.get_device_index(),
                  "z: on another device than grad_h; move it");
  DeviceGuard guard(z.get_device_index());
  int64_t rows = z.size(0), columns = z.size(1);
  Tensor grad_z = torch::stable::new_empty(z, {rows, columns});
  Tensor h = torch::stable::new_empty(z, {rows, columns});
  Tensor column_sums = torch::stable::new_empty(z, {columns}, ScalarType::Float);
  if (columns == 0) return {grad_z, h, column_sums};

  bool vector = rows_are_vectors(grad_h) && rows_are_vectors(z);
  int64_t wide = ceil_div(columns, 32 * (vector ? 16 / z.element_size() : 1));
  // Once all the blocks that a large GPU holds, with 64 rows each at least.
  int64_t held = std::max<int64_t>(kBlocks * 132 / wide, 1);
  int64_t stretches = std::clamp<int64_t>(ceil_div(rows, 64), 1, held);
  Tensor sums = torch::stable::new_empty(z, {stretches, columns}, ScalarType::Float);
  dim3 blocks(static_cast<unsigned>(wide), static_cast<unsigned>(stretches));
  Results results{grad_z.mutable_data_ptr(), h.mutable_data_ptr(),
                  static_cast<float*>(sums.mutable_data_ptr())};
  with_gelu(z.scalar_type(), approximate, [&](auto type, auto function) {
    using T = typename decltype(type)::type;
    using Function = decltype(function);
    auto kernel =
        vector ? gelu_backward_kernel<T, true, Function> : gelu_backward_kernel<T, false, Function>;
    kernel<<<blocks, 32 * kWarps, 0, current_stream(z)>>>(
        matrix_of(grad_h), matrix_of(z), ceil_div(rows, stretches), function, results);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  sum_rows(sums, column_sums);
  return {grad_z, h, column_sums};
}

}  // namespace sparsetrain
