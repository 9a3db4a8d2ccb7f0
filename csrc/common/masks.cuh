// Masks of the two tiles of a strip, as bits: bit 16 t + 4 r + c is row r, column c of tile t.
#pragma once

#include <cstdint>

namespace sparsetrain {

// Bits set in mask bytes, one or sixteen of them.
__device__ inline int bits_of(uint8_t bytes) { return __popc(bytes); }
__device__ inline int bits_of(uint4 bytes) {
  return __popc(bytes.x) + __popc(bytes.y) + __popc(bytes.z) + __popc(bytes.w);
}
__device__ inline uint4 operator^(uint4 a, uint4 b) {
  return make_uint4(a.x ^ b.x, a.y ^ b.y, a.z ^ b.z, a.w ^ b.w);
}

// Swap rows and columns of both tiles.
__device__ inline uint32_t transposed(uint32_t mask) {
  uint32_t swap = (mask ^ mask >> 3) & 0x0a0a0a0au;
  mask ^= swap ^ swap << 3;
  swap = (mask ^ mask >> 6) & 0x00cc00ccu;
  return mask ^ swap ^ swap << 6;
}

// Nibbles of four bytes, the low or the high ones, side by side.
__device__ inline uint32_t gather_nibbles(uint32_t bytes) {
  bytes &= 0x0f0f0f0fu;
  bytes = (bytes | bytes >> 4) & 0x00ff00ffu;
  return (bytes | bytes >> 8) & 0xffffu;
}

// Whether every row keeps exactly two.
__device__ inline bool two_per_row(uint32_t mask) {
  uint32_t pairs = mask - (mask >> 1 & 0x55555555u);
  return (pairs & 0x33333333u) + (pairs >> 2 & 0x33333333u) == 0x22222222u;
}

// Make every row keep two: the lowest free positions fill up, the highest of too many go.
__device__ inline uint32_t filled(uint32_t mask) {
  constexpr uint64_t two_of_row = 0x365c3a9936553333ull;  // nibble m is what row m becomes
  uint32_t out = 0;
#pragma unroll
  for (int row = 0; row < 8; ++row)
    out |= static_cast<uint32_t>(two_of_row >> (4 * (mask >> 4 * row & 15)) & 15) << 4 * row;
  return out;
}

// The bits of the first `rows` rows of both tiles.
__device__ inline uint32_t first_rows(int rows) {
  return rows >= 4 ? 0xffffffffu : rows <= 0 ? 0 : ((1u << 4 * rows) - 1) * 0x00010001u;
}

}  // namespace sparsetrain
