// Which kernel runs a problem, and how: a model of the time, a pure function of the problem, and a
// table of exceptions to it that `python -m sparsetrain tune` measures.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace sparsetrain {

// A packed 2:4 A [M, K] times B [K, N].
struct Problem {
  int64_t type;  // 0 bfloat16, 1 float16, 2 8 bits: float8_e4m3fn or int8, 3 with scales by block
  int64_t M, N, K;
  int64_t rows_of_b;   // 0: columns of B are contiguous; 1: rows
  int64_t transposed;  // the result is [N, M]
  int64_t wide;        // the result is float32

  bool operator==(const Problem& other) const {
    return type == other.type && M == other.M && N == other.N && K == other.K &&
           rows_of_b == other.rows_of_b && transposed == other.transposed && wide == other.wide;
  }
};

struct Config {
  int64_t tile;       // of kTiles
  int64_t cluster_m;  // blocks below each other that share B: 1 or 2
  int64_t cluster_n;  // blocks side by side that share A: 1 or 2
  int64_t group;      // columns of tiles that are near in time
  int64_t stream_k;   // 1: what does not fill whole rounds is cut along K
};

struct TileSize {
  int rows, columns;
};

constexpr std::array<TileSize, 4> kTiles = {{{128, 256}, {256, 192}, {256, 128}, {128, 128}}};

// Whether a tile has kernels for the type: 128x128 was never the fastest of 8-bit values; with
// scales by block a tile's columns share one, and registers have to hold a step's sums besides.
constexpr bool has_tile(int64_t type, size_t tile) {
  return type == 3 ? tile == 2 : type == 2 ? tile < 3 : true;
}

// What the table says of the problem, else the model of choose.cpp.
Config choose(const Problem& problem, int multiprocessors);

// What the model gives the best config, without launching it.
double expected_microseconds(const Problem& problem, int multiprocessors);

}  // namespace sparsetrain
