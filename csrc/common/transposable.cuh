// The exact best of the 90 masks of a 4x4 tile without sort or branch.
#pragma once

#include "strip.cuh"

namespace sparsetrain {

// How a magnitude becomes an integer score of 13 bits, given scale = 8191 / the tile's largest.
// Adding 2^23 rounds to an integer, which then lies in the low bits of the float.
struct L1Score {
  static __device__ uint32_t bits(float magnitude, float scale) {
    return __float_as_uint(__fmaf_rn(magnitude, scale, 8388608.0f));
  }
};
struct L2Score {
  static __device__ uint32_t bits(float magnitude, float scale) {
    float u = __fmul_rn(magnitude, scale);
    return __float_as_uint(__fmaf_rn(u, __fmul_rn(u, 1.0f / 8191.0f), 8388608.0f));
  }
};

// 8191 / x rounded to nearest, for x in [2^-100, 2^100]: a division without its special cases.
__device__ inline float score_scale(float x) {
  float reciprocal;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(x));
  reciprocal = __fmaf_rn(__fmaf_rn(-x, reciprocal, 1.0f), reciprocal, reciprocal);
  float quotient = __fmul_rn(8191.0f, reciprocal);
  quotient = __fmaf_rn(__fmaf_rn(-x, quotient, 8191.0f), reciprocal, quotient);
  return quotient;
}

// Element = score << 16 | its bit, so that every sum carries its own mask and, on a tie, the
// larger mask number wins. Its highest bit is row 0, column 0.
template <class Score, class T>
__device__ inline void score_tile(const Strip<T>& x, int tile, uint32_t (&element)[4][4]) {
  constexpr float smallest = 0x1p-100f, largest = 0x1p100f;
  float value[16];
#pragma unroll
  for (int i = 0; i < 16; ++i) value[i] = value_at(x, i / 4, 4 * tile + i % 4);
  float most = largest_magnitude(x, tile);
  if (!(most <= largest)) {  // rare: infinities, NaN
    most = 0;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      value[i] = isnan(value[i]) ? 0.0f : fminf(fabsf(value[i]), largest);
      most = fmaxf(most, value[i]);
    }
  }
  float scale = score_scale(fmaxf(most, smallest));
#pragma unroll
  for (int i = 0; i < 16; ++i)
    element[i / 4][i % 4] = (Score::bits(fabsf(value[i]), scale) << 16) + (0x8000u >> i);
}

__device__ inline uint32_t add_max(uint32_t a, uint32_t b, uint32_t c) {
  return __viaddmax_u32(a, b, c);
}

// For each pair of columns j < k the better of a_j + b_k and a_k + b_j. Pair 5 - p is the
// complement of pair p: 01 02 03 12 13 23.
__device__ inline void best_split(const uint32_t (&a)[4], const uint32_t (&b)[4],
                                  uint32_t (&best)[6]) {
  constexpr int low[6] = {0, 0, 0, 1, 1, 2}, high[6] = {1, 2, 3, 2, 3, 3};
#pragma unroll
  for (int p = 0; p < 6; ++p) best[p] = add_max(a[low[p]], b[high[p]], a[high[p]] + b[low[p]]);
}

// The best way to take each column once from two rows, two columns from each.
__device__ inline uint32_t best_halves(const uint32_t (&split)[6]) {
  return add_max(split[0], split[5], split[1] + split[4]);
}

// The largest total of a pattern with its mask in the low half.
//
// Rows 0, 1 take some columns twice, some once, some not at all; rows 2, 3 the other way round.
//   (a) every column once:                       halves of rows 0, 1 + halves of rows 2, 3
//   (b) two columns twice, two not at all:       halves of the column sums of rows 01 and 23
//   (c) j and k once, one of the others twice:   split jk of 0, 1 + split jk of 2, 3
//                                                + split of the others of the column sums
__device__ inline uint32_t best_pattern(const uint32_t (&element)[4][4]) {
  uint32_t upper[4], lower[4], split01[6], split23[6], split_sums[6];
#pragma unroll
  for (int column = 0; column < 4; ++column) {
    upper[column] = element[0][column] + element[1][column];
    lower[column] = element[2][column] + element[3][column];
  }
  best_split(element[0], element[1], split01);
  best_split(element[2], element[3], split23);
  best_split(upper, lower, split_sums);
  uint32_t best = best_halves(split_sums);
  best = add_max(best_halves(split01), best_halves(split23), best);
#pragma unroll
  for (int p = 0; p < 6; ++p) best = add_max(split01[p] + split23[p], split_sums[5 - p], best);
  return best;
}

}  // namespace sparsetrain
