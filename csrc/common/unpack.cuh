// From packed values and metadata back to masks and dense values.
#pragma once

#include "masks.cuh"
#include "pack.cuh"

namespace sparsetrain {

// The mask bits of metadata: in each nibble i0 | i1 << 2 becomes 1 << i0 | 1 << i1.
__device__ inline uint32_t mask_of_metadata(uint32_t meta) {
  constexpr uint32_t ones = 0x11111111u;
  uint32_t b0 = meta & ones, b1 = meta >> 1 & ones, b2 = meta >> 2 & ones, b3 = meta >> 3 & ones;
  uint32_t at0 = ~(b0 | b1) & ones, at1 = b0 | (b2 & ~b3), at2 = b1 | (b3 & ~b2), at3 = b2 & b3;
  return at0 | at1 << 1 | at2 << 2 | at3 << 3;
}

// For each row of a tile, which bytes of (pair, zero) are the value of a column.
//                                   index:  7    6    5    4    3    2    1    0    (pack.cuh)
constexpr uint64_t select_column0 = 0x44'44'10'44'10'44'10'44ull;
constexpr uint64_t select_column1 = 0x44'10'44'44'32'10'44'44ull;
constexpr uint64_t select_column2 = 0x44'32'32'10'44'44'44'44ull;
constexpr uint64_t select_column3 = 0x44'44'44'32'44'32'32'44ull;

// Writes the dense rows of one tile of x from its pairs; the mask has exactly two per row.
template <class T>
__device__ inline void unpack_tile(const Pair<T> (&pair)[4], uint32_t tile_mask, int tile,
                                   Strip<T>& x) {
  if constexpr (sizeof(T) == 2) {
    uint32_t column0 = look_up(select_column0, tile_mask);
    uint32_t column1 = look_up(select_column1, tile_mask);
    uint32_t column2 = look_up(select_column2, tile_mask);
    uint32_t column3 = look_up(select_column3, tile_mask);
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      int bytes_of_row = 0x40 + 0x11 * r;
      x.word[r][2 * tile] = __byte_perm(pair[r], 0, __byte_perm(column0, column1, bytes_of_row));
      x.word[r][2 * tile + 1] =
          __byte_perm(pair[r], 0, __byte_perm(column2, column3, bytes_of_row));
    }
  } else {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      uint32_t kept = tile_mask >> 4 * r;
      float first = __uint_as_float(pair[r].x), second = __uint_as_float(pair[r].y);
      x.value[r][4 * tile] = kept & 1 ? first : 0.0f;
      x.value[r][4 * tile + 1] = kept & 2 ? (kept & 1 ? second : first) : 0.0f;
      x.value[r][4 * tile + 2] = kept & 4 ? (kept & 8 ? first : second) : 0.0f;
      x.value[r][4 * tile + 3] = kept & 8 ? second : 0.0f;
    }
  }
}

}  // namespace sparsetrain
