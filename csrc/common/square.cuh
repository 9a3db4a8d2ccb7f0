// A square of 128 x 128, a block of 256 threads: the tile of kernels that write 2:4 matrices in 8
// bits. It is two atoms of metadata of either orientation, and shares a scale "by block".
#pragma once

#include "pack.cuh"
#include "quantized.h"
#include "rules.cuh"
#include "staging.cuh"

namespace sparsetrain {

constexpr int kSquareThreads = 256;
constexpr int kAtom8 = 1024;  // bytes of metadata of 64 x 128 8-bit values

// Where a thread works: the block's square, and its patch of 8 x 8 in it.
struct PlaceInSquare {
  int64_t first_row, first_column;  // of the square
  int rows, columns;                // of the square that are inside the matrix
  int p, q;                         // the patch: rows 8 p to 8 p + 7, columns 8 q to 8 q + 7
  int left, wide;                   // rows and columns inside the matrix from the patch's first

  __device__ PlaceInSquare(const Matrix& x) {
    unsigned across = static_cast<unsigned>((x.columns + kBlock - 1) / kBlock);
    first_row = int64_t{blockIdx.x / across} * kBlock;
    first_column = int64_t{blockIdx.x % across} * kBlock;
    rows = static_cast<int>(min(x.rows - first_row, int64_t{kBlock}));
    columns = static_cast<int>(min(x.columns - first_column, int64_t{kBlock}));
    // A warp takes 32 rows x 64 columns: eight lanes side by side, four below each other.
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    p = warp / 2 * 4 + lane / 8;
    q = warp % 2 * 8 + lane % 8;
    wide = columns - 8 * q;
    left = wide > 0 ? rows - 8 * p : 0;
  }

  __device__ int64_t row() const { return first_row + 8 * p; }
  __device__ int64_t column() const { return first_column + 8 * q; }
};

inline unsigned squares_of(const Tensor& x) {
  return static_cast<unsigned>(ceil_div(x.size(0), kBlock) * ceil_div(x.size(1), kBlock));
}

// The bits of a given mask, [rows, ceil(columns / 8)].
struct StagedMask {
  Lines<kSquareThreads, kBlock, kBlock / 8, 16> lines;

  __device__ void load(const uint8_t* mask, const Matrix& x, const PlaceInSquare& at) {
    int64_t bytes = (x.columns + 7) / 8;
    lines.template load<uint8_t>(
        reinterpret_cast<const char*>(mask) + at.first_row * bytes + at.first_column / 8, at.rows,
        bytes, (at.columns + 7) / 8);
    __syncthreads();
  }

  // Of strip s of the patch, a byte for each row.
  __device__ uint32_t strip(const PlaceInSquare& at, int s) {
    uint32_t bytes = 0;
#pragma unroll
    for (int r = 0; r < 4; ++r)
      bytes |= uint32_t{lines.template at<uint8_t>(8 * at.p + 4 * s + r, at.q)} << 8 * r;
    return bytes;
  }
};

// What a mask keeps of a patch, in the type of the matrix, along its rows and along its columns.
template <class In>
struct KeptOfPatch {
  TwoPairs<In> rows[8];
  Pair<In> columns[8][2];       // of the rows 0 to 3 and 4 to 7
  uint32_t meta_of_rows[2];     // of strip s, a byte for each row
  uint32_t meta_of_columns[2];  // of tile t, a byte for each column

  template <bool kVector>
  __device__ KeptOfPatch(const Matrix& x, StagedMask& mask, const PlaceInSquare& at,
                         std::bool_constant<kVector>) {
    Strip<In> strip[2];
#pragma unroll
    for (int s = 0; s < 2; ++s)
      load_strip<kVector>(x, at.row() + 4 * s, at.column(), at.left - 4 * s, strip[s]);
    uint32_t whole = at.wide >= 8 ? 0xffffffffu : at.wide > 0 ? 0x0f0f0f0fu : 0;
    uint32_t nibbles[2][2];
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      uint32_t kept = Given().rows(strip[s], mask.strip(at, s)) & first_rows(at.left - 4 * s);
      uint32_t by_row = filled(kept), by_column = filled(transposed(kept));
      zero_pruned(strip[s], kept);
      TwoPairs<In> of_rows[4];
      pack_rows(strip[s], by_row, of_rows);
#pragma unroll
      for (int r = 0; r < 4; ++r) rows[4 * s + r] = of_rows[r];
      meta_of_rows[s] = rows_of_bytes(metadata_of_nibble, by_row) & whole;
      Pair<In> of_columns[8];
      pack_columns(strip[s], by_column, of_columns);
#pragma unroll
      for (int c = 0; c < 8; ++c) columns[c][s] = of_columns[c];
      nibbles[0][s] = look_up(metadata_of_nibble, by_column);
      nibbles[1][s] = look_up(metadata_of_nibble, by_column >> 16);
    }
#pragma unroll
    for (int t = 0; t < 2; ++t) meta_of_columns[t] = nibbles[t][0] + (nibbles[t][1] << 4);
  }

  __device__ void row(int i, float (&value)[4]) const {
    floats(rows[i].first, rows[i].second, value);
  }
  __device__ void column(int c, float (&value)[4]) const {
    floats(columns[c][0], columns[c][1], value);
  }

 private:
  __device__ static void floats(Pair<In> first, Pair<In> second, float (&value)[4]) {
    float2 a = floats_of(In(), first), b = floats_of(In(), second);
    value[0] = a.x, value[1] = a.y, value[2] = b.x, value[3] = b.y;
  }
};

// Metadata of 8-bit values of 128 lines x 128 values, two atoms (sparsetrain/reference/pack24.py).
struct Atoms8 {
  alignas(16) uint8_t bytes[2 * kAtom8];

  // The byte of line 8 line8 + i, values 8 value8 to 8 value8 + 7.
  __device__ uint8_t& at(int line8, int value8, int i) {
    int lane = line8 / 2 % 4 * 32 + i * 4 + value8 / 4 % 2 * 2 + line8 % 2;
    return bytes[line8 / 8 * kAtom8 + lane * 8 + value8 / 8 * 4 + value8 / 2 % 2 * 2 + value8 % 2];
  }

  // The atoms that hold `lines` lines.
  __device__ void store(uint8_t* to, int lines) const {
    int units = (lines + 63) / 64 * (kAtom8 / 16);
    for (int i = threadIdx.x; i < units; i += kSquareThreads)
      reinterpret_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(bytes)[i];
  }
};

}  // namespace sparsetrain
