#include "squared_relu24_quantize.h"

#include "common/pack_both.cuh"
#include "common/row_scales.cuh"
#include "common/squared_relu.cuh"
#include "squared_relu24.h"

namespace sparsetrain {
namespace {

struct Results {
  void* values;     // [rows, columns / 2], in 8 bits
  uint8_t* meta;    // atoms, [ceil(columns / 128), ceil(rows / 64), 1024]
  float* scales;    // [rows]
  void* values_t;   // [columns, padded rows / 2]
  uint8_t* meta_t;  // atoms, [padded rows / 64, ceil(columns / 64), 512]
  bool power_of_two;
};

template <class T, int kColumns>
struct StagedTile {
  HeldRows<T, kColumns> rows;
  RowAtoms8<kColumns> meta;
  Lines<kWide, kColumns, kTileRows<kColumns> / 2 * sizeof(T), 16> values_t;
  ColumnAtoms<kColumns> meta_t;
};

// pack_both.cuh with rows in 8 bits.
template <class T, class Rule, int kColumns>
__global__ void __launch_bounds__(kWide, 3)
    squared_relu24_quantize_kernel(Matrix z, Rule rule, Results to) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ char shared[];
  auto& staged = *reinterpret_cast<StagedTile<T, kColumns>*>(shared);
  PlaceInCluster<kColumns> at(z);
  uint32_t whole = 8 * at.q < at.columns ? 0xffffffffu : 0;
  Strip<T> strip[2];
  uint32_t meta_of_columns[2][2];
#pragma unroll
  for (int s = 0; s < 2; ++s)
    load_strip<true>(z, at.row() + 4 * s, at.column(), at.left - 4 * s, strip[s]);
  staged.rows.begin();
#pragma unroll
  for (int s = 0; s < 2; ++s) {
    SquaredRelu()(strip[s]);
    uint32_t row_mask, column_mask;
    choose(rule, strip[s], 0, at.left - 4 * s, row_mask, column_mask);

    // Rows.
    TwoPairs<T> by_row[4];
    pack_rows(strip[s], row_mask, by_row);
    uint32_t meta_of_rows = rows_of_bytes(metadata_of_nibble, row_mask) & whole;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      int i = 4 * s + r;
      staged.rows.values.template at<TwoPairs<T>>(8 * at.p + i, at.q * sizeof(by_row[r])) =
          by_row[r];
      staged.meta.at(at.p, at.q, i) = i < at.left ? meta_of_rows >> 8 * r : 0;
    }

    // Columns.
    Pair<T> by_column[8];
    pack_columns(strip[s], column_mask, by_column);
#pragma unroll
    for (int c = 0; c < 8; ++c)
      staged.values_t.template at<Pair<T>>(8 * at.q + c, (2 * at.p + s) * sizeof(by_column[c])) =
          by_column[c];
    meta_of_columns[0][s] = look_up(metadata_of_nibble, column_mask);
    meta_of_columns[1][s] = look_up(metadata_of_nibble, column_mask >> 16);
  }
#pragma unroll
  for (int c = 0; c < 8; ++c) {
    uint32_t bytes = meta_of_columns[c / 4][0] + (meta_of_columns[c / 4][1] << 4);
    staged.meta_t.at(at.q / 8, at.q, at.p, c) = whole ? bytes >> 8 * (c % 4) : 0;
  }
  __syncthreads();

  int64_t stride = padded_rows(z.rows) / 2 * sizeof(T);
  staged.values_t.template store<uint32_t>(
      static_cast<char*>(to.values_t) + at.first_column * stride + at.first_row / 2 * sizeof(T),
      at.columns, stride, kTileRows<kColumns> / 2 * sizeof(T));
  staged.meta_t.store_columns(to.meta_t, z, at);
  staged.meta.store(to.meta, z, at);
  staged.rows.finish(z, at, to.values, to.scales, to.power_of_two);
#endif
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> squared_relu24_quantize(const Tensor& z,
                                                                           const std::string& rule,
                                                                           ScalarType dtype,
                                                                           bool power_of_two) {
  check_groups("z", z);
  Quantizing how{dtype, "row", power_of_two};
  check_quantizing(how);
  int64_t rows = z.size(0), columns = z.size(1);
  if (!scales_in_one_pass(z, rule, dtype)) {
    auto [values16, meta16, values_t, meta_t] = squared_relu24(z, rule);
    auto [values, meta, scales] = narrow(values16, meta16, rows, columns, how);
    return {values, meta, scales, values_t, meta_t};
  }
  DeviceGuard guard(z.get_device_index());
  Tensor values = torch::stable::new_empty(z, {rows, columns / 2}, dtype);
  Tensor meta = torch::stable::new_empty(z, {ceil_div(columns, kBlock), ceil_div(rows, 64), kAtom8},
                                         ScalarType::Byte);
  Tensor scales = torch::stable::new_empty(z, {rows, 1}, ScalarType::Float);
  Tensor values_t = new_values_t(z, z.scalar_type()), meta_t = new_meta_t(z);
  Results to{values.mutable_data_ptr(),
             static_cast<uint8_t*>(meta.mutable_data_ptr()),
             static_cast<float*>(scales.mutable_data_ptr()),
             values_t.mutable_data_ptr(),
             static_cast<uint8_t*>(meta_t.mutable_data_ptr()),
             power_of_two};
  auto of_type = [&](auto type) {
    using T = decltype(type);
    auto by = [&](auto chosen) {
      with_tile(z, [&](auto columns) {
        constexpr int kColumns = decltype(columns)::value;
        launch_clusters<kColumns>(squared_relu24_quantize_kernel<T, decltype(chosen), kColumns>,
                                  sizeof(StagedTile<T, kColumns>), z, matrix_of(z), chosen, to);
      });
    };
    rule == "transposable" ? by(Transposable<L1Score>{}) : by(Transposable<L2Score>{});
  };
  z.scalar_type() == ScalarType::Half ? of_type(float16{}) : of_type(bfloat16{});
  return {values, meta, scales, values_t, meta_t};
}

}  // namespace sparsetrain
