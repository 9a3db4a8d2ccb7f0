#include "choose.h"

#include <algorithm>
#include <cstddef>
#include <limits>

#include "table.h"

namespace sparsetrain {
namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Microseconds of a step of 64 columns, 128 of 8-bit values, and of what comes once a tile, on an
// H200 at its power limit; in the order of kTiles.
struct Costs {
  double step[4], tile[4];
};

// Fitted to 3120 times of the products of five MLPs (2026-11-22): the chosen configs were 1.7 %
// slower than the best in the mean and 5 % at most; on times of 2026-12-01 they are 0.6 % and 3 %.
// 128x128 is a guess.
constexpr Costs kWide = {{0.591, 0.784, 0.562, 0.40}, {1.23, 2.48, 1.30, 0.9}};
// Fitted to 15 products of those MLPs in e4m3 with scales by row (2026-12-01), to the times within
// 6 % of the best of their tile. The chosen configs are 0.9 % slower than the best in the mean and
// 8 % at most. Neither int8 nor scales by block were measured.
constexpr Costs kNarrow = {{0.529, 0.713, 0.521}, {1.31, 1.99, 1.61}};

constexpr double kPartialSums = 6.5;

struct Cluster {
  int m, n;
  double whole, cut;  // factors on the time of whole tiles, and of tiles cut along K
};
constexpr Cluster kClusters[] = {
    {1, 2, 0.946, 1.002}, {2, 1, 0.959, 1.137}, {1, 1, 1.017, 1.182}, {2, 2, 1.033, 0.972}};

double microseconds(const Problem& problem, size_t tile, const Cluster& cluster, bool stream_k,
                    int multiprocessors) {
  // Clusters of four do not fill every part of the chip: 32 of them run on 132 multiprocessors.
  int blocks = cluster.m * cluster.n;
  int64_t workers = std::max(multiprocessors / blocks - (blocks == 4), 1);
  int64_t tiles = ceil_div(problem.M, kTiles[tile].rows * cluster.m) *
                  ceil_div(problem.N, kTiles[tile].columns * cluster.n);
  bool narrow = problem.type >= 2;
  const Costs& costs = narrow ? kNarrow : kWide;
  double a_tile = ceil_div(problem.K, narrow ? 128 : 64) * costs.step[tile] + costs.tile[tile];
  if (!stream_k) return ceil_div(tiles, workers) * a_tile * cluster.whole;
  return (a_tile * tiles / workers + kPartialSums) * cluster.cut;
}

struct Plan {
  Config config;
  double microseconds;
};

Plan plan(const Problem& problem, int multiprocessors) {
  Plan best{{}, std::numeric_limits<double>::infinity()};
  for (size_t tile = 0; tile < kTiles.size(); ++tile) {
    if (!has_tile(problem.type, tile)) continue;
    for (const Cluster& cluster : kClusters) {
      for (bool stream_k : {false, true}) {
        double time = microseconds(problem, tile, cluster, stream_k, multiprocessors);
        if (time >= best.microseconds) continue;
        // Blocks that cut tiles meet in time along columns of tiles.
        int64_t group = stream_k && cluster.m * cluster.n == 4 ? 1 : 8;
        best = {{static_cast<int64_t>(tile), cluster.m, cluster.n, group, stream_k}, time};
      }
    }
  }
  return best;
}

}  // namespace

Config choose(const Problem& problem, int multiprocessors) {
  if (auto measured = look_up(problem)) return *measured;
  return plan(problem, multiprocessors).config;
}

double expected_microseconds(const Problem& problem, int multiprocessors) {
  return plan(problem, multiprocessors).microseconds;
}

}  // namespace sparsetrain
