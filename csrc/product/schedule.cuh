// Which parts of which tiles a worker computes, in which order.
//
// A worker is a block, or a cluster of up to four with tiles next to each other. The first `shared`
// tiles (what is left of whole rounds, and one round) are cut along K into as many equal ranges as
// there are workers (stream-K, Osama et al. 2023); the rest go round whole. A range that does not
// begin at the start of a tile leaves float32 partial sums in the worker's slot; who has the start
// of the tile adds the slots of those after it, in order, so that the result does not depend on
// time. A worker waits for workers of a higher number only, which are blocks of a lower index. That
// those have been dispatched before is how GPUs do it, not what CUDA promises.
#pragma once

#include <cstdint>

namespace sparsetrain {

struct Schedule {
  int workers;
  int tiles_m, tiles_n;  // tiles of a worker
  int group;             // columns of tiles that are near in time
  int steps;             // along K
  int shared;            // tiles that are cut along K
};

// Steps [begin, end) along K of the tile (m, n).
struct Part {
  int m, n, begin, end;
};

// The first step of a worker's range of the shared tiles, counted over all of them.
__device__ inline int range_begin(const Schedule& s, int worker) {
  return static_cast<int>(static_cast<int64_t>(s.shared) * s.steps * worker / s.workers);
}

class Parts {
 public:
  __device__ Parts(const Schedule& schedule, int worker)
      : schedule_(schedule),
        at_(range_begin(schedule, worker)),
        end_(range_begin(schedule, worker + 1)),
        tile_(schedule.shared + worker) {}

  __device__ bool next(Part& part) {
    if (at_ < end_) {
      int tile = at_ / schedule_.steps;
      int begin = at_ - tile * schedule_.steps;
      int end = min(schedule_.steps, begin + end_ - at_);
      at_ += end - begin;
      part = place(tile, begin, end);
      return true;
    }
    if (tile_ >= schedule_.tiles_m * schedule_.tiles_n) return false;
    part = place(tile_, 0, schedule_.steps);
    tile_ += schedule_.workers;
    return true;
  }

 private:
  // Tiles go down a few columns side by side, so that what runs at a time shares rows of A and
  // columns of B in the L2 cache.
  __device__ Part place(int tile, int begin, int end) const {
    int per_group = schedule_.group * schedule_.tiles_m;
    int first = tile / per_group * schedule_.group;
    int width = min(schedule_.group, schedule_.tiles_n - first);
    int within = tile % per_group;
    return {within / width, first + within % width, begin, end};
  }

  const Schedule& schedule_;
  int at_, end_, tile_;
};

}  // namespace sparsetrain
