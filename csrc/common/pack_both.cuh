// Reads a matrix once, chooses its mask, and writes it packed in both orientations.
//
// A thread takes 8 x 8 as two strips. All that a block writes meets in shared memory first and
// leaves in whole sectors: partial ones cost the L2 cache more than their bytes
// (docs/kernels/sparsify24.md). The matrix is extended with zeros past its last row up to a
// multiple of 128, so every block has all rows of the transposed side.
#pragma once

#include "matrix.cuh"
#include "pack.cuh"
#include "pack_forms.h"
#include "rules.cuh"
#include "staging.cuh"

namespace sparsetrain {

template <class T, int kColumns>
struct Staged : StagedValues<T, kColumns> {
  Lines<kColumns, kRows, kColumns / 8, 16> mask;
  Atoms<kColumns> meta, meta_t;
};

struct Identity {
  template <class T>
  __device__ void operator()(Strip<T>&) const {}
};

// Both masks of a strip, both with exactly two per row. Pruned values may become zero in x.
template <class Rule, class T>
__device__ inline uint32_t choose(const Rule& rule, Strip<T>& x, uint32_t given, int left,
                                  uint32_t& by_row, uint32_t& by_column) {
  uint32_t kept = rule.rows(x, given);
  by_row = kept;
  if constexpr (Rule::independent) {
    by_column = rule.columns(x);
    return kept;
  } else {
    by_column = transposed(kept);
    // Rows past the last keep nothing.
    if (left < 4 || (!Rule::exact && !(two_per_row(kept) && two_per_row(by_column)))) {
      kept &= first_rows(left);
      zero_pruned(x, kept);
      by_row = filled(kept);
      by_column = filled(transposed(kept));
    }
  }
  return kept;
}

template <class In, class Out, int kColumns, bool kVector, bool kSome, class Map, class Rule>
__global__ void __launch_bounds__(kColumns,
                                  kBlocks<In, kVector, kColumns, Rule::independent, kSome>)
    pack_both_kernel(Matrix x, Packed packed, Bits bits, Rule rule, Map map) {
  extern __shared__ char shared[];
  auto& staged = *reinterpret_cast<Staged<Out, kColumns>*>(shared);
  Place<kColumns> at(x);
  int64_t mask_bytes = (x.columns + 7) / 8;
  int64_t mask_offset = at.first_row * mask_bytes + at.first_column / 8;
  int wide = (at.columns + 7) / 8;
  // What lies outside has metadata 0.
  int columns = at.columns - 8 * at.q;
  uint32_t whole = columns >= 8 ? 0xffffffffu : columns > 0 ? 0x0f0f0f0fu : 0;

  Strip<In> strip[2];
  uint32_t meta_of_columns[2][2];
#pragma unroll
  for (int s = 0; s < 2; ++s)
    load_strip<kVector>(x, at.row() + 4 * s, at.column(), at.left - 4 * s, strip[s]);
  if constexpr (std::is_same_v<Rule, Given>) {
    staged.mask.template load<uint8_t>(reinterpret_cast<const char*>(bits.given) + mask_offset,
                                       at.rows, mask_bytes, wide);
    __syncthreads();
  }
#pragma unroll
  for (int s = 0; s < 2; ++s) {
    map(strip[s]);
    uint32_t given = 0;
    if constexpr (std::is_same_v<Rule, Given>) {
#pragma unroll
      for (int r = 0; r < 4; ++r)
        given |= uint32_t{staged.mask.template at<uint8_t>(8 * at.p + 4 * s + r, at.q)} << 8 * r;
    }
    uint32_t row_mask, column_mask;
    uint32_t kept = choose(rule, strip[s], given, at.left - 4 * s, row_mask, column_mask);
    if (kSome && packed.dense) {
      zero_pruned(strip[s], kept);
      store_strip<kVector>(convert<Out>(strip[s]), x, at.row() + 4 * s, at.column(),
                           at.left - 4 * s, static_cast<Out*>(packed.dense));
    }
    Strip<Out> out = convert<Out>(strip[s]);

    // Rows.
    TwoPairs<Out> by_row[4];
    pack_rows(out, row_mask, by_row);
    uint32_t meta_of_rows = rows_of_bytes(metadata_of_nibble, row_mask) & whole;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      int i = 4 * s + r;
      staged.values.template at<TwoPairs<Out>>(8 * at.p + i, at.q * sizeof(by_row[r])) = by_row[r];
      staged.meta.at(at.q / 8, at.p, at.q, i) = i < at.left ? meta_of_rows >> 8 * r : 0;
    }
    if constexpr (!std::is_same_v<Rule, Given>) {
      uint32_t mask_of_rows =
          (Rule::exact ? rows_of_bytes(nibble_itself, kept) : spread(kept)) & whole;
#pragma unroll
      for (int r = 0; r < 4; ++r)
        staged.mask.template at<uint8_t>(8 * at.p + 4 * s + r, at.q) = mask_of_rows >> 8 * r;
    }

    // Columns.
    Pair<Out> by_column[8];
    pack_columns(out, column_mask, by_column);
#pragma unroll
    for (int c = 0; c < 8; ++c)
      staged.values_t.template at<Pair<Out>>(8 * at.q + c, (2 * at.p + s) * sizeof(by_column[c])) =
          by_column[c];
    meta_of_columns[0][s] = look_up(metadata_of_nibble, column_mask);
    meta_of_columns[1][s] = look_up(metadata_of_nibble, column_mask >> 16);
  }
#pragma unroll
  for (int c = 0; c < 8; ++c) {
    uint32_t bytes = meta_of_columns[c / 4][0] + (meta_of_columns[c / 4][1] << 4);
    staged.meta_t.at(at.q / 8, at.q, at.p, c) = c < columns ? bytes >> 8 * (c % 4) : 0;
  }
  __syncthreads();

  if (!kSome || packed.values) {
    staged.store_rows(packed.values, x, at);
    staged.meta.store_rows(packed.meta, x, at);
  }
  if (!kSome || packed.values_t) {
    staged.store_columns(packed.values_t, x, at);
    staged.meta_t.store_columns(packed.meta_t, x, at);
  }
  if (bits.mask)
    staged.mask.template store<uint8_t>(reinterpret_cast<char*>(bits.mask) + mask_offset, at.rows,
                                        mask_bytes, wide);
  if (bits.previous) {
    int flips = 0;
    staged.mask.template visit<uint8_t>(
        reinterpret_cast<const char*>(bits.previous) + mask_offset, at.rows, mask_bytes, wide,
        [&](auto& now, const char* then) {
          using Unit = std::decay_t<decltype(now)>;
          flips += bits_of(static_cast<Unit>(now ^ *reinterpret_cast<const Unit*>(then)));
        });
    flips = __reduce_add_sync(0xffffffffu, flips);
    if (threadIdx.x % 32 == 0 && flips)
      atomicAdd(bits.flips, static_cast<unsigned long long>(flips));
  } else if (bits.flips && blockIdx.x == 0 && threadIdx.x == 0) {
    *bits.flips = 0;
  }
}

// Launches the kernel for x, whose values are In, with packed values in Out. kSome: writes what
// `packed` has a place for; else all but the dense form.
template <class In, class Out, bool kSome = false, class Map, class Rule>
void pack_both(const Tensor& x, const Packed& packed, const Bits& bits, const Rule& rule,
               const Map& map) {
  if (tiles_of(x) == 0) return;
  auto launch_tiles = [&](auto kernel, int columns, size_t shared) {
    launch(kernel, tiles_of(x, columns), columns, shared, x, matrix_of(x), packed, bits, rule, map);
  };
  // Narrow tiles spread a weight more evenly while there are few: 800 are two rounds of the 396
  // that an H200 takes at once. 5120x1280 gains 6 % by them, 14336x4096 would lose 10 %
  // (2026-11-22).
  if (!rows_are_vectors(x)) {
    launch_tiles(pack_both_kernel<In, Out, kNarrow, false, kSome, Map, Rule>, kNarrow,
                 sizeof(Staged<Out, kNarrow>));
  } else if (tiles_of(x) <= 800) {
    launch_tiles(pack_both_kernel<In, Out, kNarrow, true, kSome, Map, Rule>, kNarrow,
                 sizeof(Staged<Out, kNarrow>));
  } else {
    launch_tiles(pack_both_kernel<In, Out, kWide, true, kSome, Map, Rule>, kWide,
                 sizeof(Staged<Out, kWide>));
  }
}

// Uninitialised packed tensors for x in a dtype, and the pointers to them.
struct PackedTensors {
  Tensor values, meta, values_t, meta_t;

  PackedTensors(const Tensor& x, ScalarType type)
      : values(new_values(x, type)),
        meta(new_meta(x)),
        values_t(new_values_t(x, type)),
        meta_t(new_meta_t(x)) {}

  Packed pointers() {
    return {values.mutable_data_ptr(), static_cast<uint8_t*>(meta.mutable_data_ptr()),
            values_t.mutable_data_ptr(), static_cast<uint8_t*>(meta_t.mutable_data_ptr()), nullptr};
  }
};

}  // namespace sparsetrain
