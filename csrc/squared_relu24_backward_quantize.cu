#include "squared_relu24_backward_quantize.h"

#include "common/row_scales.cuh"
#include "common/squared_relu.cuh"
#include "common/sum_rows.h"
#include "common/unpack.cuh"
#include "product/reference.h"

namespace sparsetrain {
namespace {

struct Activation {
  const uint8_t* meta;   // of the rows, atoms of 8-bit values
  const void* values_t;  // [columns, padded rows / 2]
};

struct Results {
  void* values;   // [rows, columns / 2], in 8 bits
  float* scales;  // [rows]
  void* values_t;
  float* sums;  // one row of columns for each row of tiles
  bool power_of_two;
};

template <class T, int kColumns>
struct StagedTile {
  HeldRows<T, kColumns> rows;
  RowAtoms8<kColumns> meta;
  Lines<kWide, kColumns, kTileRows<kColumns> / 2 * sizeof(T), 16> values_t;
  float sums[kTileRows<kColumns> / 8][kColumns];
};

// A strip from the pairs that each of its columns keeps, by the mask whose "rows" are columns.
template <class T>
__device__ inline Strip<T> unpack_columns(const Pair<T> (&pair)[2][4], uint32_t column_mask) {
  Strip<T> columns, out;
#pragma unroll
  for (int t = 0; t < 2; ++t) {
    unpack_tile<T>(pair[t], column_mask >> 16 * t, t, columns);
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      auto half = r % 2 ? high_halves : low_halves;
#pragma unroll
      for (int w = 0; w < 2; ++w)
        out.word[r][2 * t + w] =
            half(columns.word[2 * w][2 * t + r / 2], columns.word[2 * w + 1][2 * t + r / 2]);
    }
  }
  return out;
}

// squared_relu24_backward.cu from the columns of h, with rows in 8 bits.
template <class T, int kColumns>
__global__ void __launch_bounds__(kWide, 3)
    squared_relu24_backward_quantize_kernel(Matrix grad, Activation h, Results to) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ char shared[];
  constexpr int kTile = kTileRows<kColumns>;
  auto& staged = *reinterpret_cast<StagedTile<T, kColumns>*>(shared);
  PlaceInCluster<kColumns> at(grad);
  bool inside = 8 * at.q < at.columns;
  int64_t stride = padded_rows(grad.rows) / 8;  // of pairs of pairs

  Strip<T> strip[2];
  TwoPairs<T> pair[8] = {};
#pragma unroll
  for (int s = 0; s < 2; ++s)
    load_strip<true>(grad, at.row() + 4 * s, at.column(), at.left - 4 * s, strip[s]);
#pragma unroll
  for (int c = 0; c < 8; ++c)
    if (inside)
      pair[c] =
          static_cast<const TwoPairs<T>*>(h.values_t)[(at.column() + c) * stride + at.row() / 8];
  staged.meta.load(h.meta, grad, at);
  staged.rows.begin();
  __syncthreads();

  float sum[8] = {};
#pragma unroll
  for (int s = 0; s < 2; ++s) {
    uint32_t bytes = 0;
#pragma unroll
    for (int r = 0; r < 4; ++r) bytes |= uint32_t{staged.meta.at(at.p, at.q, 4 * s + r)} << 8 * r;
    uint32_t row_mask = mask_of_metadata(gather_nibbles(bytes) | gather_nibbles(bytes >> 4) << 16);
    row_mask &= first_rows(at.left - 4 * s);
    uint32_t column_mask = transposed(row_mask);
    if (at.left - 4 * s < 4) column_mask = filled(column_mask);

    Pair<T> of_columns[2][4];
#pragma unroll
    for (int c = 0; c < 8; ++c) of_columns[c / 4][c % 4] = s ? pair[c].second : pair[c].first;
    Strip<T> activation = unpack_columns<T>(of_columns, column_mask), out;
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
      staged.rows.values.template at<TwoPairs<T>>(8 * at.p + 4 * s + r, at.q * sizeof(by_row[r])) =
          by_row[r];
    Pair<T> by_column[8];
    pack_columns(out, column_mask, by_column);
#pragma unroll
    for (int c = 0; c < 8; ++c)
      staged.values_t.template at<Pair<T>>(8 * at.q + c, (2 * at.p + s) * sizeof(by_column[c])) =
          by_column[c];
  }
#pragma unroll
  for (int c = 0; c < 8; ++c) staged.sums[at.p][8 * at.q + c] = sum[c];
  __syncthreads();

  int64_t bytes = padded_rows(grad.rows) / 2 * sizeof(T);
  staged.values_t.template store<uint32_t>(
      static_cast<char*>(to.values_t) + at.first_column * bytes + at.first_row / 2 * sizeof(T),
      at.columns, bytes, kTile / 2 * sizeof(T));
#pragma unroll
  for (int i = 0; i < kColumns; i += kWide) {
    int column = i + threadIdx.x;
    if (column >= at.columns) break;
    float total = 0;
#pragma unroll
    for (int p = 0; p < kTile / 8; ++p) total += staged.sums[p][column];
    to.sums[at.first_row / kTile * grad.columns + at.first_column + column] = total;
  }
  staged.rows.finish(grad, at, to.values, to.scales, to.power_of_two);
#endif
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> squared_relu24_backward_quantize(
    const Tensor& grad_h, const Tensor& meta_in, const Tensor& values_in, const Tensor& meta_t,
    ScalarType dtype, bool power_of_two) {
  check_groups("grad_h", grad_h);
  check_quantizing({dtype, "row", power_of_two});
  int64_t rows = grad_h.size(0), columns = grad_h.size(1);
  check_packed("values_t", values_in, "meta_t", meta_t, grad_h, columns, padded_rows(rows));
  STD_TORCH_CHECK(meta_in.scalar_type() == ScalarType::Byte && meta_in.dim() == 3 &&
                      meta_in.size(0) == ceil_div(columns, kBlock) &&
                      meta_in.size(1) == ceil_div(rows, 64) && meta_in.size(2) == kAtom8 &&
                      meta_in.get_device_index() == grad_h.get_device_index(),
                  "meta: shape ", shape_of(meta_in), " should be Byte of shape (",
                  ceil_div(columns, kBlock), ", ", ceil_div(rows, 64), ", ", kAtom8,
                  ") on the device of grad_h; pass what squared_relu24_quantize returned");
  if (!scales_in_one_pass(grad_h, "transposable", dtype)) {
    auto stack = call_reference("sparsetrain::_squared_relu24_backward_quantize_reference", grad_h,
                                meta_in, values_in, meta_t, dtype, power_of_two);
    auto result = [&](int i) { return torch::stable::detail::to<Tensor>(stack[i]); };
    return {result(0), result(1), result(2), result(3)};
  }
  DeviceGuard guard(grad_h.get_device_index());
  Tensor meta = aligned(meta_in), values_t = aligned(values_in);
  Tensor out = torch::stable::new_empty(grad_h, {rows, columns / 2}, dtype);
  Tensor scales = torch::stable::new_empty(grad_h, {rows, 1}, ScalarType::Float);
  Tensor out_t = new_values_t(grad_h, grad_h.scalar_type());
  Tensor column_sums = torch::stable::new_empty(grad_h, {columns}, ScalarType::Float);
  Activation h{static_cast<const uint8_t*>(meta.const_data_ptr()), values_t.const_data_ptr()};
  with_tile(grad_h, [&](auto tile) {
    constexpr int kColumns = decltype(tile)::value;
    Tensor sums = torch::stable::new_empty(
        grad_h, {padded_rows(rows) / kTileRows<kColumns>, columns}, ScalarType::Float);
    Results to{out.mutable_data_ptr(), static_cast<float*>(scales.mutable_data_ptr()),
               out_t.mutable_data_ptr(), static_cast<float*>(sums.mutable_data_ptr()),
               power_of_two};
    auto run = [&](auto type) {
      using T = decltype(type);
      launch_clusters<kColumns>(squared_relu24_backward_quantize_kernel<T, kColumns>,
                                sizeof(StagedTile<T, kColumns>), grad_h, matrix_of(grad_h), h, to);
    };
    grad_h.scalar_type() == ScalarType::Half ? run(float16{}) : run(bfloat16{});
    sum_rows(sums, column_sums);
  });
  return {out, scales, out_t, column_sums};
}

}  // namespace sparsetrain
