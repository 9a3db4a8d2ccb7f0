#include "squared_relu24_backward.h"

#include "common/rules.cuh"
#include "common/squared_relu.cuh"
#include "common/staging.cuh"
#include "common/sum_rows.h"
#include "common/unpack.cuh"

namespace sparsetrain {
namespace {

struct Activation {
  const void* values;     // [rows, columns / 2]
  const uint8_t* meta;    // atoms
  const void* values_t;   // [columns, padded rows / 2]
  const uint8_t* meta_t;  // atoms
};

struct Gradient {
  void* values;
  void* values_t;
  float* sums;  // [padded rows / 64, columns], one row for each row of tiles
};

template <class T>
struct Staged : StagedValues<T, kWide> {
  Atoms<kWide> meta, meta_t;
  float sums[kRows / 8][kWide];
};

// The packed rows of a strip: two pairs of each, zeros outside the matrix.
template <bool kVector, class T>
__device__ inline void load_pairs(const void* values, const Matrix& x, int64_t row, int64_t column,
                                  int left, Pair<T> (&pair)[2][4]) {
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const Pair<T>* from =
        static_cast<const Pair<T>*>(values) + (row + r) * (x.columns / 4) + column / 4;
    TwoPairs<T> both{};
    if (r < left) {
      if constexpr (kVector) {
        both = *reinterpret_cast<const TwoPairs<T>*>(from);
      } else {
        both.first = from[0];
        if (column + 4 < x.columns) both.second = from[1];
      }
    }
    pair[0][r] = both.first;
    pair[1][r] = both.second;
  }
}

// Blocks on a multiprocessor where one mask serves both orientations. For other architectures than
// Hopper the compiler needs more registers than three leave.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ != 900
constexpr int kSharedBlocks = 2;
#else
constexpr int kSharedBlocks = 3;
#endif

// kShared: one mask for both orientations.
template <class T, bool kVector, bool kShared>
__global__ void __launch_bounds__(kWide,
                                  sizeof(T) == 2 && kVector ? (kShared ? kSharedBlocks : 2) : 1)
    squared_relu24_backward_kernel(Matrix grad, Activation h, Gradient dz) {
  extern __shared__ char shared[];
  Staged<T>& staged = *reinterpret_cast<Staged<T>*>(shared);
  Place<kWide> at(grad);
  int columns = at.columns - 8 * at.q;

  Strip<T> strip[2];
  Pair<T> pair[2][2][4];
#pragma unroll
  for (int s = 0; s < 2; ++s) {
    load_strip<kVector>(grad, at.row() + 4 * s, at.column(), at.left - 4 * s, strip[s]);
    load_pairs<kVector, T>(h.values, grad, at.row() + 4 * s, at.column(), at.left - 4 * s, pair[s]);
  }
  int64_t stride_t = padded_rows(grad.rows) / 8;
  TwoPairs<T> pair_t[8];
  if constexpr (!kShared) {
#pragma unroll
    for (int c = 0; c < 8; ++c)
      if (c < columns)
        pair_t[c] = static_cast<const TwoPairs<T>*>(
            h.values_t)[(at.column() + c) * stride_t + at.row() / 8];
  }
  staged.meta.load_rows(h.meta, grad, at);
  if constexpr (!kShared) staged.meta_t.load_columns(h.meta_t, grad, at);
  __syncthreads();

  float sum[8] = {};
#pragma unroll
  for (int s = 0; s < 2; ++s) {
    uint32_t bytes = 0;
#pragma unroll
    for (int r = 0; r < 4; ++r)
      bytes |= uint32_t{staged.meta.at(at.q / 8, at.p, at.q, 4 * s + r)} << 8 * r;
    uint32_t row_mask = mask_of_metadata(gather_nibbles(bytes) | gather_nibbles(bytes >> 4) << 16);
    row_mask &= first_rows(at.left - 4 * s);

    Strip<T> activation, out;
    unpack_tile<T>(pair[s][0], row_mask, 0, activation);
    unpack_tile<T>(pair[s][1], row_mask >> 16, 1, activation);
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      float value[8];
#pragma unroll
      for (int c = 0; c < 8; ++c) {
        value[c] = squared_relu_gradient<T>(value_at(activation, r, c), value_at(strip[s], r, c));
        sum[c] += value[c];
      }
      set_row(out, r, value);
    }

    TwoPairs<T> by_row[4];
    pack_rows(out, row_mask, by_row);
#pragma unroll
    for (int r = 0; r < 4; ++r)
      staged.values.template at<TwoPairs<T>>(8 * at.p + 4 * s + r, at.q * sizeof(by_row[r])) =
          by_row[r];

    Pair<T> by_column[8];
    if constexpr (kShared) {
      uint32_t column_mask = transposed(row_mask);
      if (at.left - 4 * s < 4) column_mask = filled(column_mask);
      pack_columns(out, column_mask, by_column);
    } else {
      uint32_t half[2] = {0, 0};
#pragma unroll
      for (int c = 0; c < 8; ++c)
        half[c / 4] |= uint32_t{staged.meta_t.at(at.q / 8, at.q, at.p, c)} << 8 * (c % 4);
      uint32_t column_mask = mask_of_metadata(gather_nibbles(half[0] >> 4 * s) |
                                              gather_nibbles(half[1] >> 4 * s) << 16);
      pack_columns(strip[s], column_mask, by_column);
#pragma unroll
      for (int c = 0; c < 8; ++c) {
        float2 activation = floats_of(T(), s ? pair_t[c].second : pair_t[c].first);
        float2 value = floats_of(T(), by_column[c]);
        by_column[c] = pair_of(T(), squared_relu_gradient<T>(activation.x, value.x),
                               squared_relu_gradient<T>(activation.y, value.y));
      }
    }
#pragma unroll
    for (int c = 0; c < 8; ++c)
      staged.values_t.template at<Pair<T>>(8 * at.q + c, (2 * at.p + s) * sizeof(by_column[c])) =
          by_column[c];
  }
#pragma unroll
  for (int c = 0; c < 8; ++c) staged.sums[at.p][8 * at.q + c] = sum[c];
  __syncthreads();

  staged.store_rows(dz.values, grad, at);
  staged.store_columns(dz.values_t, grad, at);
  if (static_cast<int>(threadIdx.x) < at.columns) {
    float total = 0;
#pragma unroll
    for (int p = 0; p < kRows / 8; ++p) total += staged.sums[p][threadIdx.x];
    dz.sums[at.first_row / kRows * grad.columns + at.first_column + threadIdx.x] = total;
  }
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> squared_relu24_backward(const Tensor& grad_h,
                                                           const Tensor& values, const Tensor& meta,
                                                           const Tensor& values_t,
                                                           const Tensor& meta_t,
                                                           const std::string& rule) {
  check_groups("grad_h", grad_h);
  check_packed("values", values, "meta", meta, grad_h, grad_h.size(0), grad_h.size(1));
  check_packed("values_t", values_t, "meta_t", meta_t, grad_h, grad_h.size(1),
               padded_rows(grad_h.size(0)));
  DeviceGuard guard(grad_h.get_device_index());
  Tensor packed[] = {aligned(values), aligned(meta), aligned(values_t), aligned(meta_t)};
  int64_t columns = grad_h.size(1), tile_rows = padded_rows(grad_h.size(0)) / kRows;
  Tensor out = new_values(grad_h, grad_h.scalar_type());
  Tensor out_t = new_values_t(grad_h, grad_h.scalar_type());
  Tensor sums = torch::stable::new_empty(grad_h, {tile_rows, columns}, ScalarType::Float);
  Tensor column_sums = torch::stable::new_empty(grad_h, {columns}, ScalarType::Float);

  Activation h{packed[0].const_data_ptr(), static_cast<const uint8_t*>(packed[1].const_data_ptr()),
               packed[2].const_data_ptr(), static_cast<const uint8_t*>(packed[3].const_data_ptr())};
  Gradient dz{out.mutable_data_ptr(), out_t.mutable_data_ptr(),
              static_cast<float*>(sums.mutable_data_ptr())};
  bool shared_mask = false;
  with_rule(rule, [&](auto chosen) {
    shared_mask = decltype(chosen)::exact && !decltype(chosen)::independent;
  });
  bool vector = rows_are_vectors(grad_h);
  if (columns == 0) return {out, out_t, column_sums};
  if (unsigned blocks = tiles_of(grad_h)) {
    with_type(grad_h.scalar_type(), [&](auto type) {
      using T = typename decltype(type)::type;
      auto kernel = shared_mask ? vector ? squared_relu24_backward_kernel<T, true, true>
                                         : squared_relu24_backward_kernel<T, false, true>
                    : vector ? squared_relu24_backward_kernel<T, true, false>
                                : squared_relu24_backward_kernel<T, false, false>;
      launch(kernel, blocks, kWide, sizeof(Staged<T>), grad_h, matrix_of(grad_h), h, dz);
    });
  }
  sum_rows(sums, column_sums);
  return {out, out_t, column_sums};
}

}  // namespace sparsetrain
