// The rules that choose a strip's mask. Each gives the mask of the rows of both tiles as bits
// (masks.cuh); the definitions are in sparsetrain/reference/masks24.py.
#pragma once

#include "host.h"
#include "masks.cuh"
#include "transposable.cuh"

namespace sparsetrain {

// exact        every row and column keeps exactly two
// independent  the columns have a mask of their own
// The second argument of rows() is the mask that is given, for the rule Given alone.
template <class Score>
struct Transposable {
  static constexpr bool exact = true, independent = false;

  template <class T>
  __device__ uint32_t rows(const Strip<T>& x, uint32_t) const {
    uint32_t best[2];
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
      uint32_t element[4][4];
      score_tile<Score>(x, tile, element);
      best[tile] = best_pattern(element);
    }
    return __brev(low_halves(best[1], best[0]));  // the highest bit becomes bit 0
  }
};

// What `row` and `greedy` rank by: 1 + the bits of the magnitude, and 0 for NaN.
template <class T>
__device__ inline uint32_t rank(const Strip<T>& x, int row, int column) {
  uint32_t magnitude, infinity;
  if constexpr (sizeof(T) == 2) {
    magnitude = x.word[row][column / 2] >> 16 * (column % 2) & 0x7fffu;
    infinity = std::is_same_v<T, bfloat16> ? 0x7f80u : 0x7c00u;
  } else {
    magnitude = __float_as_uint(x.value[row][column]) & 0x7fffffffu;
    infinity = 0x7f800000u;
  }
  return magnitude > infinity ? 0 : magnitude + 1;
}

// The two largest of four as bits; ties keep the lower index. Ranks of 16 bits carry their bit in
// the sum, as in transposable.cuh; the largest sum of two is that of the two largest.
template <class T>
__device__ inline uint32_t two_largest(const uint32_t (&rank)[4]) {
  if constexpr (sizeof(T) == 2) {
    uint32_t a = rank[0] << 16 | 8, b = rank[1] << 16 | 4, c = rank[2] << 16 | 2,
             d = rank[3] << 16 | 1;
    uint32_t best = add_max(max(a, b), max(c, d), add_max(a, b, c + d));
    return __brev(best) >> 28;
  } else {
    int ab = rank[0] >= rank[1], ac = rank[0] >= rank[2], ad = rank[0] >= rank[3];
    int bc = rank[1] >= rank[2], bd = rank[1] >= rank[3], cd = rank[2] >= rank[3];
    return (ab + ac + ad >= 2) | (1 - ab + bc + bd >= 2) << 1 | (2 - ac - bc + cd >= 2) << 2 |
           (3 - ad - bd - cd >= 2) << 3;
  }
}

struct Row {
  static constexpr bool exact = true, independent = true;

  template <class T>
  __device__ uint32_t rows(const Strip<T>& x, uint32_t) const {
    uint32_t mask = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      int row = i % 4, column = i / 4 * 4;
      uint32_t of_four[4] = {rank(x, row, column), rank(x, row, column + 1),
                             rank(x, row, column + 2), rank(x, row, column + 3)};
      mask |= two_largest<T>(of_four) << 4 * i;
    }
    return mask;
  }

  template <class T>
  __device__ uint32_t columns(const Strip<T>& x) const {
    uint32_t mask = 0;
#pragma unroll
    for (int column = 0; column < 8; ++column) {
      uint32_t of_four[4] = {rank(x, 0, column), rank(x, 1, column), rank(x, 2, column),
                             rank(x, 3, column)};
      mask |= two_largest<T>(of_four) << 4 * column;
    }
    return mask;
  }
};

// The mask of `row` where columns are not packed.
struct RowAlone : Row {
  static constexpr bool exact = false, independent = false;
};

// By falling magnitude, what its row and column have room for; ties go to the lower position.
struct Greedy {
  static constexpr bool exact = false, independent = false;

  template <class T>
  __device__ uint32_t rows(const Strip<T>& x, uint32_t) const {
    return tile(x, 0) | tile(x, 1) << 16;
  }

  template <class T>
  static __device__ uint32_t tile(const Strip<T>& x, int t) {
    uint32_t mask = 0, left = 0xffff;
    for (int step = 0; step < 16; ++step) {
      uint32_t most = 0, at = 16;
#pragma unroll
      for (int i = 15; i >= 0; --i) {
        uint32_t magnitude = rank(x, i / 4, 4 * t + i % 4);
        bool better = (left >> i & 1) && magnitude >= most;
        most = better ? magnitude : most;
        at = better ? i : at;
      }
      left &= ~(1u << at);
      bool room = __popc(mask & 0xfu << (at & 12)) < 2 && __popc(mask & 0x1111u << (at & 3)) < 2;
      mask |= room ? 1u << at : 0;
    }
    return mask;
  }
};

// Calls f with the rule of that name.
template <class F>
void with_rule(const std::string& name, F f) {
  if (name == "transposable") return f(Transposable<L1Score>{});
  if (name == "transposable_l2") return f(Transposable<L2Score>{});
  if (name == "row") return f(Row{});
  STD_TORCH_CHECK(name == "greedy", "rule: \"", name,
                  "\" is unknown; use one of transposable, transposable_l2, row, greedy");
  f(Greedy{});
}

// A mask that is given: a byte for each row, as it lies in memory.
struct Given {
  static constexpr bool exact = false, independent = false;

  template <class T>
  __device__ uint32_t rows(const Strip<T>&, uint32_t bytes) const {
    return gather_nibbles(bytes) | gather_nibbles(bytes >> 4) << 16;
  }
};

}  // namespace sparsetrain
