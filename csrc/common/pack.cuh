// From masks to packed values and metadata. A row of a tile keeps two of four values: a nibble of
// the mask with two bits. Its low three bits tell the six such nibbles apart, so one byte permute
// looks up four rows at a time in a table of eight bytes.
#pragma once

#include "strip.cuh"

namespace sparsetrain {

// table[nibble & 7] for each of the four nibbles of the low half of `mask`, as four bytes.
__device__ inline uint32_t look_up(uint64_t table, uint32_t mask) {
  return __byte_perm(static_cast<uint32_t>(table), static_cast<uint32_t>(table >> 32),
                     mask & 0x7777u);
}

//                                          nibble: 7  1100 0110 0101 1100 0011 1010 1001  0
//                                          index:  7    6    5    4    3    2    1    0
constexpr uint64_t metadata_of_nibble = 0x00'09'08'0e'04'0d'0c'00ull;  // i0 | i1 << 2
constexpr uint64_t nibble_itself = 0x00'06'05'0c'03'0a'09'00ull;
constexpr uint64_t select_first = 0x00'32'10'54'10'32'10'00ull;   // bytes 2 i0 and 2 i0 + 1
constexpr uint64_t select_second = 0x00'54'54'76'32'76'76'00ull;  // bytes 2 i1 and 2 i1 + 1

// One byte per row of the strip: tile 0 in the low nibble, tile 1 in the high one.
__device__ inline uint32_t rows_of_bytes(uint64_t table, uint32_t mask) {
  return look_up(table, mask) + (look_up(table, mask >> 16) << 4);
}

// The same of any mask as it is.
__device__ inline uint32_t spread(uint32_t mask) {
  uint32_t bytes = 0;
#pragma unroll
  for (int r = 0; r < 4; ++r)
    bytes |= (mask >> 4 * r & 0x0f | mask >> (16 + 4 * r) << 4 & 0xf0) << 8 * r;
  return bytes;
}

// Picks what a mask of exactly two per row keeps of four values.
template <class T>
struct Picker {
  uint32_t first, second;

  __device__ explicit Picker(uint32_t tile_mask)
      : first(look_up(select_first, tile_mask)), second(look_up(select_second, tile_mask)) {}

  // The four values of a row of the tile, two words.
  __device__ uint32_t pick(int row, uint32_t low, uint32_t high) const {
    return __byte_perm(low, high, __byte_perm(first, second, 0x40 + 0x11 * row));
  }
};

template <>
struct Picker<float> {
  uint32_t mask;

  __device__ explicit Picker(uint32_t tile_mask) : mask(tile_mask) {}

  __device__ uint2 pick(int row, float a, float b, float c, float d) const {
    uint32_t kept = mask >> 4 * row;
    float first = kept & 1 ? a : kept & 2 ? b : c;
    float second = kept & 8 ? d : kept & 4 ? c : b;
    return make_uint2(__float_as_uint(first), __float_as_uint(second));
  }
};

// The kept values of the strip's rows: out[r] of row r, tile 0 first.
template <class T>
__device__ inline void pack_rows(const Strip<T>& x, uint32_t mask, TwoPairs<T> (&out)[4]) {
  Picker<T> left(mask), right(mask >> 16);
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    if constexpr (sizeof(T) == 2) {
      out[r].first = left.pick(r, x.word[r][0], x.word[r][1]);
      out[r].second = right.pick(r, x.word[r][2], x.word[r][3]);
    } else {
      const float(&v)[8] = x.value[r];
      out[r].first = left.pick(r, v[0], v[1], v[2], v[3]);
      out[r].second = right.pick(r, v[4], v[5], v[6], v[7]);
    }
  }
}

// The kept values of the strip's columns, by the mask whose "rows" are columns.
template <class T>
__device__ inline void pack_columns(const Strip<T>& x, uint32_t mask, Pair<T> (&out)[8]) {
#pragma unroll
  for (int tile = 0; tile < 2; ++tile) {
    Picker<T> picker(mask >> 16 * tile);
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      int column = 4 * tile + c;
      if constexpr (sizeof(T) == 2) {
        int word = column / 2;
        auto both = column % 2 ? high_halves : low_halves;
        out[column] = picker.pick(c, both(x.word[0][word], x.word[1][word]),
                                  both(x.word[2][word], x.word[3][word]));
      } else {
        out[column] = picker.pick(c, x.value[0][column], x.value[1][column], x.value[2][column],
                                  x.value[3][column]);
      }
    }
  }
}

}  // namespace sparsetrain
