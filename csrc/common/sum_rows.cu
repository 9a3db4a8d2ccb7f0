#include "sum_rows.h"

namespace sparsetrain {
namespace {

__global__ void __launch_bounds__(256)
    sum_rows_kernel(const float* sums, int64_t rows, int64_t columns, float* out) {
  __shared__ float partial[8][32];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int64_t column = blockIdx.x * int64_t{32} + lane;
  float total = 0;
  if (column < columns)
    for (int64_t row = warp; row < rows; row += 8) total += sums[row * columns + column];
  partial[warp][lane] = total;
  __syncthreads();
  if (warp == 0 && column < columns) {
    for (int i = 1; i < 8; ++i) total += partial[i][lane];
    out[column] = total;
  }
}

}  // namespace

void sum_rows(const Tensor& sums, const Tensor& out) {
  if (out.numel() == 0) return;
  sum_rows_kernel<<<static_cast<unsigned>(ceil_div(out.size(0), 32)), 256, 0,
                    current_stream(out)>>>(static_cast<const float*>(sums.const_data_ptr()),
                                           sums.size(0), out.size(0),
                                           static_cast<float*>(out.mutable_data_ptr()));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace sparsetrain
