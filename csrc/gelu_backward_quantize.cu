#include "gelu_backward_quantize.h"

#include <algorithm>

#include "common/gelu.cuh"
#include "common/matrix.cuh"
#include "common/quantized.h"
#include "common/scales.cuh"
#include "common/sum_rows.h"
#include "gelu_backward.h"

namespace sparsetrain {
namespace {

constexpr int kValues = 8;  // 16 bytes, which a thread takes of a row
constexpr int kMostThreads = 1024;
constexpr int kHeld = 1152;  // threads that a multiprocessor holds at their 56 registers

struct Results {
  void *grad_z, *h;  // [rows, columns]
  void* q;           // [rows, columns], in 8 bits
  float* scales;     // [rows]
  float* sums;       // [blocks, columns]
  bool power_of_two;
};

__device__ inline uint4 load_vector(const Matrix& x, int64_t row, int64_t column) {
  return load_once(static_cast<const uint16_t*>(x.data) + row * x.row_stride + column);
}

// The largest of a block. of_warps: other memory than in the call before, so that one barrier does.
__device__ inline uint32_t largest_of_block(uint32_t value, uint32_t* of_warps) {
  int lane = threadIdx.x % 32, warps = blockDim.x / 32;
  value = __reduce_max_sync(0xffffffff, value);
  if (lane == 0) of_warps[threadIdx.x / 32] = value;
  __syncthreads();
  return __reduce_max_sync(0xffffffff, lane < warps ? of_warps[lane] : 0);
}

// A block takes whole rows, one after another, and a thread the same columns of each: their sums
// stay in its registers, and a row's scale is known before its values are left. The next row is on
// its way meanwhile.
template <class T, class Function>
__global__ void __launch_bounds__(kMostThreads)
    gelu_backward_quantize_kernel(Matrix grad_h, Matrix z, Function function, Results results) {
  __shared__ uint32_t of_warps[2][32];
  int64_t column = threadIdx.x * kValues;
  bool inside = column < z.columns;
  uint4 next_grad{}, next_z{};
  auto load = [&](int64_t row) {
    if (!inside || row >= z.rows) return;
    next_grad = load_vector(grad_h, row, column);
    next_z = load_vector(z, row, column);
  };
  float total[kValues] = {};
  load(blockIdx.x);
  int turn = 0;
  for (int64_t row = blockIdx.x; row < z.rows; row += gridDim.x, turn ^= 1) {
    uint32_t grad[4] = {next_grad.x, next_grad.y, next_grad.z, next_grad.w};
    uint32_t input[4] = {next_z.x, next_z.y, next_z.z, next_z.w};
    load(row + gridDim.x);
    int64_t to = row * z.columns + column;
    float grad_z[kValues], h[kValues];
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      float2 z_pair = floats_of(T(), input[i / 2]), grad_pair = floats_of(T(), grad[i / 2]);
      Gelu gelu = function(i % 2 ? z_pair.y : z_pair.x);
      h[i] = gelu.value;
      grad_z[i] = __fmul_rn(gelu.slope, i % 2 ? grad_pair.y : grad_pair.x);
      total[i] = __fadd_rn(total[i], grad_z[i]);
    }
    if (inside) {
      store_values(h, static_cast<T*>(results.h) + to);
      store_values(grad_z, static_cast<T*>(results.grad_z) + to);
    }
    uint32_t rounded[4], largest = 0;
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      rounded[w] = pair_of(T(), grad_z[2 * w], grad_z[2 * w + 1]);
      float2 pair = floats_of(T(), rounded[w]);
      if (inside) largest = max(largest, max(magnitude(pair.x), magnitude(pair.y)));
    }
    largest = largest_of_block(largest, of_warps[turn]);
    float inverse = inverse_of<__nv_fp8_e4m3>(largest, results.power_of_two);
    if (threadIdx.x == 0) results.scales[row] = __frcp_rn(inverse);
    uint32_t words[2];
#pragma unroll
    for (int w = 0; w < 2; ++w) {
      float2 a = floats_of(T(), rounded[2 * w]), b = floats_of(T(), rounded[2 * w + 1]);
      words[w] = EightBits<__nv_fp8_e4m3>::four({__fmul_rn(a.x, inverse), __fmul_rn(a.y, inverse),
                                                 __fmul_rn(b.x, inverse), __fmul_rn(b.y, inverse)});
    }
    if (inside)
      *reinterpret_cast<uint2*>(static_cast<uint8_t*>(results.q) + to) =
          make_uint2(words[0], words[1]);
  }
  if (!inside) return;
#pragma unroll
  for (int i = 0; i < kValues; ++i) results.sums[blockIdx.x * z.columns + column + i] = total[i];
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> gelu_backward_quantize(
    const Tensor& grad_h, const Tensor& z, const std::string& approximate, ScalarType dtype,
    bool power_of_two) {
  Quantizing how{dtype, "row", power_of_two};
  check_quantizing(how);
  int64_t rows = z.size(0), columns = z.size(1);
  bool one_pass = grad_h.scalar_type() == z.scalar_type() && grad_h.dim() == 2 &&
                  grad_h.size(0) == rows && grad_h.size(1) == columns && z.element_size() == 2 &&
                  dtype != ScalarType::Char && rows_are_vectors(grad_h) && rows_are_vectors(z) &&
                  columns <= kMostThreads * kValues;
  if (!one_pass || z.numel() == 0) {
    auto [grad_z, h, column_sums] = gelu_backward(grad_h, z, approximate);
    auto [q, scales] = quantize_matrix(grad_z, how);
    return {grad_z, h, column_sums, q, scales};
  }
  DeviceGuard guard(z.get_device_index());
  // As many blocks as an H200 holds at once.
  int64_t threads = 32 * ceil_div(columns, 32 * kValues);
  int64_t blocks = std::min<int64_t>(rows, 132 * (kHeld / threads));
  Tensor grad_z = torch::stable::new_empty(z, {rows, columns});
  Tensor h = torch::stable::new_empty(z, {rows, columns});
  Tensor column_sums = torch::stable::new_empty(z, {columns}, ScalarType::Float);
  Tensor q = torch::stable::new_empty(z, {rows, columns}, dtype);
  Tensor scales = torch::stable::new_empty(z, {rows, 1}, ScalarType::Float);
  Tensor sums = torch::stable::new_empty(z, {blocks, columns}, ScalarType::Float);
  Results results{grad_z.mutable_data_ptr(),
                  h.mutable_data_ptr(),
                  q.mutable_data_ptr(),
                  static_cast<float*>(scales.mutable_data_ptr()),
                  static_cast<float*>(sums.mutable_data_ptr()),
                  power_of_two};
  with_gelu(z.scalar_type(), approximate, [&](auto type, auto function) {
    using T = typename decltype(type)::type;
    if constexpr (sizeof(T) == 2) {
      gelu_backward_quantize_kernel<T>
          <<<static_cast<unsigned>(blocks), static_cast<unsigned>(threads), 0, current_stream(z)>>>(
              matrix_of(grad_h), matrix_of(z), function, results);
    }
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  sum_rows(sums, column_sums);
  return {grad_z, h, column_sums, q, scales};
}

}  // namespace sparsetrain
