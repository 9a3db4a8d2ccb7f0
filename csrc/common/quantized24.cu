#include "quantized24.h"

#include "../apply24.h"
#include "../pack_into24.h"
#include "scales.cuh"
#include "square.cuh"

namespace sparsetrain {
namespace {

struct Packed8 {
  void* values;   // [lines, values of a line / 2]
  uint8_t* meta;  // atoms; 0 outside the matrix
  float* scales;
};

// Both orientations; what is not wanted has no values, and is null.
struct Both8 {
  Packed8 rows, columns;
  uint8_t *dense, *dense_t;  // [rows, columns] and its transpose, zeros included
  bool power_of_two;
};

// The largest magnitudes of rows and of columns, as bits: they order as the floats do.
struct Largest {
  uint32_t* rows;     // null: by block, which a block of threads finds itself
  uint32_t* columns;  // null: not wanted
};

template <class In>
__device__ uint32_t largest_of(const float (&value)[4]) {
  return max(max(magnitude(value[0]), magnitude(value[1])),
             max(magnitude(value[2]), magnitude(value[3])));
}

// By row, the first of two kernels: the largest magnitudes of what the mask keeps. The second reads
// x from the L2 cache, where it fits.
template <class In, bool kVector>
__global__ void __launch_bounds__(kSquareThreads)
    largest_kernel(Matrix x, const uint8_t* mask, Largest largest) {
  __shared__ StagedMask staged_mask;
  __shared__ uint32_t of_rows[kBlock], of_columns[kBlock];
  PlaceInSquare at(x);
  int i = threadIdx.x % kBlock;
  (threadIdx.x < kBlock ? of_rows : of_columns)[i] = 0;
  staged_mask.load(mask, x, at);
  KeptOfPatch<In> kept(x, staged_mask, at, std::bool_constant<kVector>());
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    float value[4];
    kept.row(j, value);
    atomicMax(&of_rows[8 * at.p + j], largest_of<In>(value));
    kept.column(j, value);
    atomicMax(&of_columns[8 * at.q + j], largest_of<In>(value));
  }
  __syncthreads();
  if (threadIdx.x < kBlock) {
    if (i < at.rows) atomicMax(&largest.rows[at.first_row + i], of_rows[i]);
  } else if (largest.columns && i < at.columns) {
    atomicMax(&largest.columns[at.first_column + i], of_columns[i]);
  }
}

struct Staged8 {
  StagedMask mask;
  Lines<kSquareThreads, kBlock, kBlock / 2, 32> values;
  Lines<kSquareThreads, kBlock, kBlock / 2, 16> values_t;
  Atoms8 meta, meta_t;
  float inverse[kBlock], inverse_t[kBlock];
  uint32_t largest[2];
};

// The inverse scales of the square's rows and columns; scales go to memory.
template <class Q>
__device__ void find_scales(Staged8& staged, const Matrix& x, const PlaceInSquare& at,
                            const Largest& largest, const Both8& to) {
  bool is_row = threadIdx.x < kBlock;
  int i = threadIdx.x % kBlock;
  int64_t first = is_row ? at.first_row : at.first_column;
  int64_t other = is_row ? at.first_column : at.first_row;
  const uint32_t* of_lines = is_row ? largest.rows : largest.columns;
  float* scales = is_row ? to.rows.scales : to.columns.scales;
  uint32_t most = 0;
  if (!largest.rows) {
    most = staged.largest[is_row ? 0 : 1];
  } else if (of_lines && i < (is_row ? at.rows : at.columns)) {
    most = of_lines[first + i];
  }
  float inverse = inverse_of<Q>(most, to.power_of_two);
  (is_row ? staged.inverse : staged.inverse_t)[i] = inverse;
  if (!scales) return;
  if (largest.rows) {
    if (other == 0 && i < (is_row ? at.rows : at.columns)) scales[first + i] = __frcp_rn(inverse);
  } else if (i == 0) {
    int64_t across = ((is_row ? x.columns : x.rows) + kBlock - 1) / kBlock;
    scales[first / kBlock * across + other / kBlock] = __frcp_rn(inverse);
  }
}

// Two of four values, at the places that their metadata says.
__device__ inline uint32_t among_zeros(uint32_t two, uint32_t meta) {
  return (two & 0xff) << 8 * (meta & 3) | (two >> 8 & 0xff) << 8 * (meta >> 2 & 3);
}

// Four of eight values with their zeros, of which so many are inside the matrix. aligned: `to` is,
// to 8 bytes.
__device__ inline void store_dense(uint8_t* to, int inside, bool aligned, uint32_t four,
                                   uint32_t meta) {
  uint2 eight = make_uint2(among_zeros(four, meta), among_zeros(four >> 16, meta >> 4));
  if (aligned && inside >= 8) {
    *reinterpret_cast<uint2*>(to) = eight;
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i)
    if (i < inside) to[i] = (i < 4 ? eight.x : eight.y) >> 8 * (i % 4) & 0xff;
}

template <class In, class Q, bool kVector>
__global__ void __launch_bounds__(kSquareThreads)
    quantize_both_kernel(Matrix x, const uint8_t* mask, Largest largest, Both8 to) {
  __shared__ Staged8 staged;
  PlaceInSquare at(x);
  if (threadIdx.x < 2) staged.largest[threadIdx.x] = 0;
  staged.mask.load(mask, x, at);
  KeptOfPatch<In> kept(x, staged.mask, at, std::bool_constant<kVector>());
  float value[4];
  if (!largest.rows) {
    uint32_t of_rows = 0, of_columns = 0;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      kept.row(j, value);
      of_rows = max(of_rows, largest_of<In>(value));
      kept.column(j, value);
      of_columns = max(of_columns, largest_of<In>(value));
    }
    atomicMax(&staged.largest[0], of_rows);
    atomicMax(&staged.largest[1], of_columns);
    __syncthreads();
  }
  find_scales<Q>(staged, x, at, largest, to);
  __syncthreads();

#pragma unroll
  for (int j = 0; j < 8; ++j) {
    kept.row(j, value);
    float inverse = staged.inverse[8 * at.p + j];
#pragma unroll
    for (int k = 0; k < 4; ++k) value[k] = __fmul_rn(value[k], inverse);
    uint32_t four = EightBits<Q>::four(value);
    staged.values.template at<uint32_t>(8 * at.p + j, 4 * at.q) = four;
    int byte = 8 * (j % 4);
    if (to.dense && j < at.left)
      store_dense(to.dense + (at.row() + j) * x.columns + at.column(), at.wide, x.columns % 8 == 0,
                  four, kept.meta_of_rows[j / 4] >> byte);
    kept.column(j, value);
    inverse = staged.inverse_t[8 * at.q + j];
#pragma unroll
    for (int k = 0; k < 4; ++k) value[k] = __fmul_rn(value[k], inverse);
    four = EightBits<Q>::four(value);
    staged.values_t.template at<uint32_t>(8 * at.q + j, 4 * at.p) = four;
    if (to.dense_t && j < at.wide)
      store_dense(to.dense_t + (at.column() + j) * x.rows + at.row(), at.left, x.rows % 8 == 0,
                  four, kept.meta_of_columns[j / 4] >> byte);
    staged.meta.at(at.p, at.q, j) = j < at.left ? kept.meta_of_rows[j / 4] >> byte : 0;
    staged.meta_t.at(at.q, at.p, j) = j < at.wide ? kept.meta_of_columns[j / 4] >> byte : 0;
  }
  __syncthreads();

  if (to.rows.values) {
    int64_t stride = x.columns / 2, atoms = (x.rows + 63) / 64;
    staged.values.template store<uint16_t>(
        static_cast<char*>(to.rows.values) + at.first_row * stride + at.first_column / 2, at.rows,
        stride, at.columns / 2);
    staged.meta.store(
        to.rows.meta + (at.first_column / kBlock * atoms + at.first_row / 64) * kAtom8, at.rows);
  }
  if (to.columns.values) {
    int64_t stride = padded_rows(x.rows) / 2, atoms = (x.columns + 63) / 64;
    staged.values_t.template store<uint16_t>(
        static_cast<char*>(to.columns.values) + at.first_column * stride + at.first_row / 2,
        at.columns, stride, kBlock / 2);
    staged.meta_t.store(
        to.columns.meta + (at.first_row / kBlock * atoms + at.first_column / 64) * kAtom8,
        at.columns);
  }
}

Quantized24 new_quantized(const Tensor& x, int64_t rows, int64_t columns, const Quantizing& how) {
  bool by_row = how.scaling == "row";
  return {torch::stable::new_empty(x, {rows, columns / 2}, how.dtype),
          torch::stable::new_empty(x, {ceil_div(columns, 128), ceil_div(rows, 64), kAtom8},
                                   ScalarType::Byte),
          torch::stable::new_empty(
              x, {by_row ? rows : ceil_div(rows, kBlock), by_row ? 1 : ceil_div(columns, kBlock)},
              ScalarType::Float)};
}

Packed8 pointers(Quantized24& out) {
  auto& [values, meta, scales] = out;
  return {values.mutable_data_ptr(), static_cast<uint8_t*>(meta.mutable_data_ptr()),
          static_cast<float*>(scales.mutable_data_ptr())};
}

// Packed in the type of x, then narrowed.
std::tuple<Quantized24, Quantized24> through_type(const Tensor& x, const Tensor& mask,
                                                  const Quantizing& how, bool both) {
  int64_t rows = x.size(0), columns = x.size(1);
  if (both) {
    auto [values, meta, values_t, meta_t] = apply24(x, mask, std::nullopt);
    return {narrow(values, meta, rows, columns, how),
            narrow(values_t, meta_t, columns, padded_rows(rows), how)};
  }
  Tensor values = new_values(x, x.scalar_type()), meta = new_meta(x);
  pack_into24(x, mask, "transposable", values, meta, std::nullopt, std::nullopt, std::nullopt);
  return {narrow(values, meta, rows, columns, how), Quantized24{}};
}

// What `to` wants of an x with elements, by row or block; both: columns too, packed or dense.
void launch_quantize(const Tensor& x, const Tensor& mask, const Quantizing& how, const Both8& to,
                     bool both) {
  const auto* bits = static_cast<const uint8_t*>(mask.const_data_ptr());
  bool by_row = how.scaling == "row", vector = rows_are_vectors(x);
  Largest largest{};
  Tensor magnitudes;
  if (by_row) {
    int64_t rows = x.size(0), lines = rows + (both ? x.size(1) : 0);
    magnitudes = torch::stable::new_empty(x, {lines}, ScalarType::Int);
    largest.rows = static_cast<uint32_t*>(magnitudes.mutable_data_ptr());
    largest.columns = both ? largest.rows + rows : nullptr;
    STD_CUDA_CHECK(cudaMemsetAsync(largest.rows, 0, lines * sizeof(uint32_t), current_stream(x)));
  }
  with_type(x.scalar_type(), [&](auto type) {
    using In = typename decltype(type)::type;
    auto run = [&](auto kernel, const auto&... more) {
      launch(kernel, squares_of(x), kSquareThreads, 0, x, matrix_of(x), bits, largest, more...);
    };
    if (by_row) vector ? run(largest_kernel<In, true>) : run(largest_kernel<In, false>);
    auto into = [&](auto eight) {
      using Q = decltype(eight);
      vector ? run(quantize_both_kernel<In, Q, true>, to)
             : run(quantize_both_kernel<In, Q, false>, to);
    };
    how.dtype == ScalarType::Char ? into(int8_t{}) : into(__nv_fp8_e4m3{});
  });
}

}  // namespace

std::tuple<Quantized24, Quantized24> quantize_packed(const Tensor& x, const Tensor& mask_in,
                                                     const Quantizing& how, bool both) {
  check_groups("x", x);
  check_quantizing(how);
  DeviceGuard guard(x.get_device_index());
  int64_t rows = x.size(0), columns = x.size(1);
  Tensor mask = check_bytes("mask", mask_in, x, rows, ceil_div(columns, 8));
  if (how.scaling == "tensor" || (how.scaling == "row" && x.numel() == 0))
    return through_type(x, mask, how, both);

  Quantized24 out = new_quantized(x, rows, columns, how), out_t;
  if (both) out_t = new_quantized(x, columns, padded_rows(rows), how);
  if (x.numel() == 0) return {out, out_t};
  Both8 to{};
  to.rows = pointers(out);
  if (both) to.columns = pointers(out_t);
  to.power_of_two = how.power_of_two;
  launch_quantize(x, mask, how, to, both);
  return {out, out_t};
}

std::tuple<Quantized24, Tensor, Tensor> quantize_across(const Tensor& x, const Tensor& mask_in,
                                                        ScalarType dtype, bool columns,
                                                        bool power_of_two) {
  check_groups("x", x);
  Quantizing how{dtype, "row", power_of_two};
  check_quantizing(how);
  DeviceGuard guard(x.get_device_index());
  int64_t R = x.size(0), C = x.size(1), lines = columns ? R : C, length = columns ? C : R;
  Tensor mask = check_bytes("mask", mask_in, x, R, ceil_div(C, 8));
  Tensor q = torch::stable::new_empty(x, {lines, length}, dtype);
  if (x.numel() == 0) {
    auto [by_row, by_column] = quantize_packed(x, mask, how, true);
    return {columns ? by_column : by_row, q, std::get<2>(columns ? by_row : by_column)};
  }
  Quantized24 out =
      columns ? new_quantized(x, C, padded_rows(R), how) : new_quantized(x, R, C, how);
  Tensor scales = torch::stable::new_empty(x, {lines, 1}, ScalarType::Float);
  Both8 to{};
  (columns ? to.columns : to.rows) = pointers(out);
  (columns ? to.rows : to.columns).scales = static_cast<float*>(scales.mutable_data_ptr());
  (columns ? to.dense : to.dense_t) = static_cast<uint8_t*>(q.mutable_data_ptr());
  to.power_of_two = power_of_two;
  launch_quantize(x, mask, how, to, true);
  return {out, q, scales};
}

}  // namespace sparsetrain
