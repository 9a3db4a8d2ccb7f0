#include "column_sums.h"

#include <algorithm>

#include "common/matrix.cuh"
#include "common/sum_rows.h"

namespace sparsetrain {
namespace {

constexpr int kWarps = 8;
constexpr int kStride = 4;  // rows that a warp reads at a time

// 16 bytes as they lie, or one value; zeros where there are none.
template <class T, bool kVector>
struct Values {
  static constexpr int kCount = kVector ? 16 / sizeof(T) : 1;
  uint4 word;

  __device__ void load(const T* from, bool here) {
    if constexpr (kVector) {
      word = here ? load_once(from) : make_uint4(0, 0, 0, 0);
    } else {
      word.x = __float_as_uint(here ? static_cast<float>(*from) : 0.0f);
    }
  }

  __device__ void add_to(float (&total)[kCount]) const {
    if constexpr (!kVector) {
      total[0] += __uint_as_float(word.x);
    } else if constexpr (sizeof(T) == 4) {
      total[0] += __uint_as_float(word.x), total[1] += __uint_as_float(word.y);
      total[2] += __uint_as_float(word.z), total[3] += __uint_as_float(word.w);
    } else {
      const uint32_t pairs[4] = {word.x, word.y, word.z, word.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float2 both = floats_of(T(), pairs[i]);
        total[2 * i] += both.x, total[2 * i + 1] += both.y;
      }
    }
  }
};

// A block sums a stretch of rows of 32 vectors side by side. kVector: 16 bytes are a vector, else
// one value.
template <class T, bool kVector>
__global__ void __launch_bounds__(32 * kWarps)
    column_sums_kernel(const T* x, int64_t row_stride, int64_t rows, int64_t columns,
                       int64_t stretch, float* sums) {
  constexpr int kValues = Values<T, kVector>::kCount;
  __shared__ float partial[kWarps][32 * kValues];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int64_t column = (blockIdx.x * int64_t{32} + lane) * kValues;
  int64_t first = blockIdx.y * stretch, last = min(first + stretch, rows);

  float total[kValues] = {};
  if (column < columns) {
    for (int64_t row = first + warp * kStride; row < last; row += kWarps * kStride) {
      Values<T, kVector> value[kStride];
#pragma unroll
      for (int r = 0; r < kStride; ++r)
        value[r].load(x + (row + r) * row_stride + column, row + r < last);
#pragma unroll
      for (int r = 0; r < kStride; ++r) value[r].add_to(total);
    }
  }
#pragma unroll
  for (int i = 0; i < kValues; ++i) partial[warp][i * 32 + lane] = total[i];
  __syncthreads();
  for (int i = threadIdx.x; i < 32 * kValues; i += 32 * kWarps) {
    int64_t to = (blockIdx.x * int64_t{32} + i % 32) * kValues + i / 32;
    if (to >= columns) continue;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += partial[w][i];
    sums[blockIdx.y * columns + to] = sum;
  }
}

}  // namespace

Tensor column_sums(const Tensor& x) {
  check_matrix("x", x);
  DeviceGuard guard(x.get_device_index());
  Tensor by_row = x.stride(1) == 1 ? x : torch::stable::contiguous(x);
  int64_t rows = x.size(0), columns = x.size(1);
  Tensor out = torch::stable::new_empty(x, {columns}, ScalarType::Float);
  if (columns == 0) return out;
  bool vector = rows_are_vectors(by_row);
  int64_t wide = ceil_div(columns, 32 * (vector ? 16 / x.element_size() : 1));
  // Four blocks for each of a large GPU's multiprocessors, with 64 rows each at least.
  int64_t most = std::max<int64_t>(4 * 132 / wide, 1);
  int64_t stretches = std::clamp<int64_t>(ceil_div(rows, 64), 1, most);
  Tensor sums = torch::stable::new_empty(x, {stretches, columns}, ScalarType::Float);
  dim3 blocks(static_cast<unsigned>(wide), static_cast<unsigned>(stretches));
  with_type(x.scalar_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    auto kernel = vector ? column_sums_kernel<T, true> : column_sums_kernel<T, false>;
    kernel<<<blocks, 32 * kWarps, 0, current_stream(x)>>>(
        static_cast<const T*>(by_row.const_data_ptr()), by_row.stride(0), rows, columns,
        ceil_div(rows, stretches), static_cast<float*>(sums.mutable_data_ptr()));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  sum_rows(sums, out);
  return out;
}

}  // namespace sparsetrain
