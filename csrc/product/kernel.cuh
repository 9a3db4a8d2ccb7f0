// The product of a packed 2:4 matrix and a dense one on the sparse tensor cores of sm_90a.
//
// One block a multiprocessor, persistent. One warp has the copy engine fill a ring of stages (64
// columns of A, 128 of 8-bit values, their metadata, as many rows of B); warpgroups multiply them,
// each its own rows of the tile, and write what they have summed (epilogue.cuh). In a cluster,
// blocks below each other each load a share of B for all of them, blocks side by side a share of A.
#pragma once

#include <type_traits>

#include "arguments.h"
#include "epilogue.cuh"
#include "ptx.cuh"
#include "schedule.cuh"
#include "wgmma.cuh"

namespace sparsetrain {

// A row of A in a stage, and a column of B.
constexpr int kRowBytesA = 64, kColumnBytesB = 128;
constexpr int depth(int element_bytes) { return kColumnBytesB / element_bytes; }

// A tile of kGroups warpgroups with kBlocks x 64 rows each, and kColumns columns; of values of
// kElement bytes.
template <int kGroups_, int kBlocks_, int kColumns_, int kElement = 2>
struct Tile {
  static constexpr int kGroups = kGroups_, kBlocks = kBlocks_, kColumns = kColumns_;
  static constexpr int kDepth = depth(kElement);  // columns of A in a stage
  static constexpr int kWords = kDepth / 64;      // of metadata, that a lane has of 64 rows
  static constexpr int kRows = kGroups * kBlocks * 64;
  static constexpr int kThreads = (kGroups + 1) * 128;
  // Together no more than the launch gave: 168 for each of 384 threads.
  static constexpr int kRegisters = 232, kProducerRegisters = 40;
  static constexpr int kBytesA = kRows * kRowBytesA, kBytesB = kColumns * kColumnBytesB;
  static constexpr int kBytesMeta = kRows * kDepth / 8;
  static constexpr int kStage = kBytesA + kBytesB + kBytesMeta;
  // As many stages as fit beside what the end of a tile needs of each warpgroup, then buffers.
  static constexpr int kShared = 227 * 1024 - 256;
  static constexpr int kTerms = kElement == 1 ? kTermBytes<kBlocks * 64, kColumns> : 0;
  static constexpr int kStages = (kShared - kGroups * (kLeastStaging + kTerms)) / kStage;
  static constexpr int kStaging =
      ((kShared - kStages * kStage) / kGroups - kTerms) / 1024 * 1024;  // of a warpgroup
  static constexpr int kBuffers = kStaging / kPieceBytes;
  static constexpr int kValues = kColumns / 2;  // sums a thread has of 64 rows
};

// Shared memory, from its start.
template <class Tile>
struct Ring {
  static constexpr int kA = 0;
  static constexpr int kB = kA + Tile::kStages * Tile::kBytesA;
  static constexpr int kStagingAt = kB + Tile::kStages * Tile::kBytesB;
  static constexpr int kMeta = kStagingAt + Tile::kGroups * Tile::kStaging;
  static constexpr int kBarriers = kMeta + Tile::kStages * Tile::kBytesMeta;
  static constexpr int kWork = kBarriers + 16 * Tile::kStages;
  static constexpr int kTermsAt = kWork + 16 * Tile::kStages;
  static constexpr int kBytes = kTermsAt + Tile::kGroups * Tile::kTerms;
  static_assert(kBytes <= 227 * 1024);

  uint32_t base;
  int stage = 0;
  uint32_t parity = 0;

  __device__ explicit Ring(uint32_t base) : base(base) {}
  __device__ uint32_t a() const { return base + kA + stage * Tile::kBytesA; }
  __device__ uint32_t b() const { return base + kB + stage * Tile::kBytesB; }
  __device__ uint32_t meta() const { return base + kMeta + stage * Tile::kBytesMeta; }
  __device__ uint32_t full() const { return base + kBarriers + 16 * stage; }
  __device__ uint32_t empty() const { return full() + 8; }
  __device__ uint32_t work() const { return base + kWork + 16 * stage; }
  __device__ void advance() {
    if (++stage == Tile::kStages) stage = 0, parity ^= 1;
  }
};

// Where a block is in its cluster, and who shares its operands: a bit for each block.
struct Member {
  int m, n;
  uint16_t same_m, same_n;

  __device__ explicit Member(const Arguments& arguments) {
    int rank = ptx::cluster_rank();
    m = rank % arguments.cluster_m;
    n = rank / arguments.cluster_m;
    same_n = ((1 << arguments.cluster_m) - 1) << n * arguments.cluster_m;
    same_m = 0;
    for (int i = 0; i < arguments.cluster_n; ++i) same_m |= 1 << (i * arguments.cluster_m + m);
  }
  __device__ uint32_t sharing() const { return same_m | same_n; }
};

// What the warpgroups have to do from a stage on: steps [begin, end) of the tile of the block that
// starts at row m and column n; without an end, nothing more. They learn it from the warp that
// loads, in the stage, because finding it takes some divisions.
struct Work {
  int m, n, begin, end;
};

template <class Tile>
__device__ void tell(const Ring<Tile>& ring, const Work& work) {
  asm volatile("st.shared.v4.s32 [%0], {%1, %2, %3, %4};" ::"r"(ring.work()), "r"(work.m),
               "r"(work.n), "r"(work.begin), "r"(work.end)
               : "memory");
}

template <class Tile>
__device__ bool ask(const Ring<Tile>& ring, Work& work) {
  ptx::barrier_wait(ring.full(), ring.parity);
  asm volatile("ld.shared.v4.s32 {%0, %1, %2, %3}, [%4];"
               : "=r"(work.m), "=r"(work.n), "=r"(work.begin), "=r"(work.end)
               : "r"(ring.work())
               : "memory");
  return work.end > 0;
}

template <class Tile, int kRowsOfB>
__device__ void load_stage(const Arguments& arguments, const Ring<Tile>& ring, const Member& member,
                           int m, int n, int step) {
  int k = step * Tile::kDepth;
  ptx::barrier_expect(ring.full(), Tile::kStage);
  if (arguments.cluster_n == 1) {
    ptx::load_2d(arguments.a, ring.a(), ring.full(), k / 2, m);
    ptx::load_3d(arguments.meta, ring.meta(), ring.full(), 0, m / 64, step);
  } else {
    int share = Tile::kRows / 2, first = member.n * share;
    ptx::load_2d_to(arguments.a, ring.a() + first * kRowBytesA, ring.full(), k / 2, m + first,
                    member.same_m);
    ptx::load_3d_to(arguments.meta, ring.meta() + first * (Tile::kDepth / 8), ring.full(), 0,
                    (m + first) / 64, step, member.same_m);
  }
  if constexpr (kRowsOfB) {
    // Two halves along K, in each of them columns of 64 one after the other.
    for (int half = member.m; half < 2; half += arguments.cluster_m) {
      uint32_t to = ring.b() + half * (Tile::kBytesB / 2);
      if (arguments.cluster_m == 1) {
        ptx::load_3d(arguments.b, to, ring.full(), 0, k + half * 32, n / 64);
      } else {
        ptx::load_3d_to(arguments.b, to, ring.full(), 0, k + half * 32, n / 64, member.same_n);
      }
    }
  } else {
    int share = Tile::kColumns / arguments.cluster_m, first = member.m * share;
    uint32_t to = ring.b() + first * kColumnBytesB;
    if (arguments.cluster_m == 1) {
      ptx::load_2d(arguments.b, to, ring.full(), k, n);
    } else {
      ptx::load_2d_to(arguments.b, to, ring.full(), k, n + first, member.same_n);
    }
  }
}

// A warpgroup's sums over the part's steps.
//
// The tensor cores read the metadata's registers while they work, which the compiler does not know:
// two sets take turns, and keep() has it hold on to a set until the step that reads it is over.
template <class T, class Tile, int kRowsOfB>
class Multiply {
 public:
  using Meta = uint32_t[Tile::kBlocks][Tile::kWords];
  using Sum = typename Sums<T>::type;

  __device__ Multiply(Ring<Tile>& ring, int group, uint32_t sharing) : ring_(ring) {
    // A lane's words of the metadata of 16 rows.
    const Place place;
    uint32_t word = Tile::kWords == 2
                        ? place.lane * 8
                        : place.lane % 2 * 64 + place.lane / 4 * 8 + place.lane % 4 / 2 * 4;
    meta_at_ = group * Tile::kBlocks * kAtom + place.warp * (kAtom / 4) + word;
    releases_ = place.thread < 8 && (sharing >> place.thread & 1);
  }

  __device__ void run(Sum (&d)[Tile::kBlocks][Tile::kValues], int steps) {
    Meta even, odd = {};
    previous_ = 0;
    written(d);
    load(even);
    for (int left = steps;; left -= 2) {
      step(d, even, odd, left != steps, left > 1);
      if (left <= 1) break;
      step(d, odd, even, true, left > 2);
      if (left <= 2) break;
    }
    wgmma_wait<0>();
    written(d);
    release(previous_);
  }

  // The same with scales by block, which end with a step: its sums leave the tensor cores, 64 rows
  // at a time, and are added up times factor(step).
  template <class Factor>
  __device__ void run_by_block(float (&total)[Tile::kBlocks][Tile::kValues], int begin, int end,
                               const Factor& factor) {
#pragma unroll
    for (int i = 0; i < Tile::kBlocks; ++i) {
#pragma unroll
      for (int j = 0; j < Tile::kValues; ++j) total[i][j] = 0;
    }
#pragma unroll 1
    for (int step = begin; step < end; ++step) {
      Meta meta;
      load(meta);
      float of_step = factor(step);
      uint64_t a = operand_a(), b = operand_b();
      Sum d[Tile::kValues];
#pragma unroll
      for (int i = 0; i < Tile::kBlocks; ++i) {
        wgmma_begin();
        wgmma<0, kRowsOfB>(T{}, d, a + i * 256, b, meta[i][0], 0);
        wgmma<1, kRowsOfB>(T{}, d, a + i * 256 + 2, b + kHalfB / 16, meta[i][Tile::kWords - 1], 1);
        wgmma_commit();
        wgmma_wait<0>();
        wgmma_written(d);
        if (i == Tile::kBlocks - 1) {
          keep(meta);
          release(ring_.empty());
        }
#pragma unroll
        for (int j = 0; j < Tile::kValues; ++j)
          total[i][j] = fmaf(static_cast<float>(d[j]), of_step, total[i][j]);
      }
      ring_.advance();
    }
  }

 private:
  // Bytes of B from one half of a step to the other.
  static constexpr int kHalfB = kRowsOfB ? Tile::kBytesB / 2 : 64;

  __device__ uint64_t operand_a() const {
    int group = threadIdx.x / 128;
    return operand(ring_.a() + group * Tile::kBlocks * 4096, Swizzle::k64, 16, 512);
  }
  __device__ uint64_t operand_b() const {
    return operand(ring_.b(), Swizzle::k128, kRowsOfB ? 4096 : 16, 1024);
  }

  __device__ void step(Sum (&d)[Tile::kBlocks][Tile::kValues], const Meta& now, Meta& next,
                       bool add, bool more) {
    uint64_t a = operand_a(), b = operand_b();
    wgmma_begin();
#pragma unroll
    for (int i = 0; i < Tile::kBlocks; ++i) {
      wgmma<0, kRowsOfB>(T{}, d[i], a + i * 256, b, now[i][0], add);
    }
#pragma unroll
    for (int i = 0; i < Tile::kBlocks; ++i) {
      wgmma<1, kRowsOfB>(T{}, d[i], a + i * 256 + 2, b + kHalfB / 16, now[i][Tile::kWords - 1], 1);
    }
    wgmma_commit();
    wgmma_wait<1>();
    keep(next);
    if (add) release(previous_);
    previous_ = ring_.empty();
    ring_.advance();
    if (more) load(next);
    keep(now);
  }

  __device__ void load(Meta& meta) {
    ptx::barrier_wait(ring_.full(), ring_.parity);
#pragma unroll
    for (int i = 0; i < Tile::kBlocks; ++i) {
      uint32_t at = ring_.meta() + meta_at_ + i * kAtom;
      if constexpr (Tile::kWords == 2) {
        asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];"
                     : "=r"(meta[i][0]), "=r"(meta[i][1])
                     : "r"(at)
                     : "memory");
      } else {
        asm volatile("ld.shared.u32 %0, [%1];" : "=r"(meta[i][0]) : "r"(at) : "memory");
      }
    }
  }

  // Keeps the compiler from moving other uses of the sums in between products, which it then runs
  // one after another (C7514 and C7520 in its log).
  __device__ static void written(Sum (&d)[Tile::kBlocks][Tile::kValues]) {
#pragma unroll
    for (int i = 0; i < Tile::kBlocks; ++i) wgmma_written(d[i]);
  }

  // Never stores: no barrier is at 0.
  __device__ void keep(const Meta& meta) {
#pragma unroll
    for (int i = 0; i < Tile::kBlocks; ++i) {
#pragma unroll
      for (int w = 0; w < Tile::kWords; ++w) {
        asm volatile(
            "{\n.reg .pred never;\nsetp.eq.u32 never, %0, 0;\n"
            "@never st.shared.u32 [%0], %1;\n}" ::"r"(ring_.empty()),
            "r"(meta[i][w])
            : "memory");
      }
    }
  }

  // Tells every block that loads into this stage; a lane of warp 0 for each of them. The other
  // warps are through with it, too: each began the products that are over, after it had read the
  // stage.
  __device__ void release(uint32_t empty) {
    if (releases_) ptx::barrier_arrive_at(empty, threadIdx.x % 128);
  }

  static constexpr int kAtom = Tile::kBytesMeta / (Tile::kRows / 64);  // metadata of 64 rows

  Ring<Tile>& ring_;
  uint32_t meta_at_, previous_;
  bool releases_;
};

// The product of two scales by block: of the block with row m of A, and that with column n of B.
class Factor {
 public:
  __device__ Factor(const Arguments& arguments, int m, int n)
      : step_a_(arguments.blocks_a.next_k), step_b_(arguments.blocks_b.next_k) {
    // Tiles that fill up a cluster lie outside: any scale will do.
    a_ = at(arguments.blocks_a, min(m, arguments.M - 1) / 128);
    b_ = at(arguments.blocks_b, min(n, arguments.N - 1) / 128);
  }
  __device__ float operator()(int step) const {
    return __ldg(a_ + step * step_a_) * __ldg(b_ + step * step_b_);
  }

 private:
  __device__ static const float* at(const BlockScales& blocks, int block) {
    return blocks.scales + block * blocks.next;
  }

  const float *a_, *b_;
  int step_a_, step_b_;
};

// Four sums in memory.
template <class Sum>
using Four = std::conditional_t<std::is_integral_v<Sum>, int4, float4>;

// Leaves the sums of a part that does not begin a tile to the worker that has its beginning.
template <class Tile, class Sum>
__device__ void leave(const Sum (&d)[Tile::kBlocks][Tile::kValues], const Arguments& arguments,
                      int slot, int group) {
  const Place place;
  int own = slot * Tile::kGroups + group;
  auto* to = reinterpret_cast<Four<Sum>*>(arguments.partial) +
             int64_t{own} * Tile::kBlocks * Tile::kValues * 32 + place.thread;
#pragma unroll
  for (int i = 0; i < Tile::kBlocks; ++i) {
#pragma unroll
    for (int j = 0; j < Tile::kValues; j += 4) {
      __stcg(to, Four<Sum>{d[i][j], d[i][j + 1], d[i][j + 2], d[i][j + 3]});
      to += 128;
    }
  }
  __threadfence();
  ptx::sync_group();
  if (place.thread == 0) ptx::signal(arguments.ready + own);
}

// Adds what was left of the part's tile, in the order of K.
template <class Tile, class Sum>
__device__ void collect(Sum (&d)[Tile::kBlocks][Tile::kValues], const Arguments& arguments,
                        int worker, int cluster, int group) {
  const Place place;
  const Schedule& schedule = arguments.schedule;
  // The tile is the last that the worker's range has a part of.
  int last = (range_begin(schedule, worker + 1) - 1) / schedule.steps;
  int tile_end = (last + 1) * schedule.steps;
  for (int next = worker + 1; range_begin(schedule, next) < tile_end; ++next) {
    int own = (next * cluster + ptx::cluster_rank()) * Tile::kGroups + group;
    ptx::await(arguments.ready + own);
    auto* from = reinterpret_cast<const Four<Sum>*>(arguments.partial) +
                 int64_t{own} * Tile::kBlocks * Tile::kValues * 32 + place.thread;
#pragma unroll
    for (int i = 0; i < Tile::kBlocks; ++i) {
#pragma unroll
      for (int j = 0; j < Tile::kValues; j += 4) {
        Four<Sum> left = __ldcg(from);
        d[i][j] += left.x, d[i][j + 1] += left.y, d[i][j + 2] += left.z, d[i][j + 3] += left.w;
        from += 128;
      }
    }
  }
}

// T: of the values. Write: what becomes of the sums, a class of epilogue.cuh; it gets those of int8
// as the bits of floats. kByBlock: scales are by block, and sums floats of any T. The rows of a
// warpgroup lie in one block then, and the columns of a tile are one.
template <class T, class Tile, int kRowsOfB, class Write, bool kByBlock = false>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    product(const __grid_constant__ Arguments arguments) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) uint8_t memory[];
  uint32_t base = ptx::shared_address(memory);
  const Schedule& schedule = arguments.schedule;
  int cluster = arguments.cluster_m * arguments.cluster_n;
  int worker = schedule.workers - 1 - static_cast<int>(blockIdx.x) / cluster;
  int group = ptx::of_warp(static_cast<int>(threadIdx.x) / 128);

  if (threadIdx.x == 0) {
    int releases = Tile::kGroups * (arguments.cluster_m + arguments.cluster_n - 1);
    for (Ring<Tile> ring(base); ring.parity == 0; ring.advance()) {
      ptx::barrier_init(ring.full(), 1);
      ptx::barrier_init(ring.empty(), releases);
    }
    ptx::fence_barrier_init();
  }
  ptx::cluster_sync();

  if (group == Tile::kGroups) {
    ptx::give_registers<Tile::kProducerRegisters>();
    Ring<Tile> ring(base);
    Member member(arguments);
    Parts parts(schedule, worker);
    Part part;
    if (threadIdx.x % 128 == 0) {
      while (parts.next(part)) {
        int m = (part.m * arguments.cluster_m + member.m) * Tile::kRows;
        int n = (part.n * arguments.cluster_n + member.n) * Tile::kColumns;
        for (int step = part.begin; step < part.end; ++step) {
          ptx::barrier_wait(ring.empty(), ring.parity ^ 1);
          if (step == part.begin) tell(ring, Work{m, n, part.begin, part.end});
          load_stage<Tile, kRowsOfB>(arguments, ring, member, m, n, step);
          ring.advance();
        }
      }
      ptx::barrier_wait(ring.empty(), ring.parity ^ 1);
      tell(ring, Work{});
      ptx::barrier_arrive(ring.full());
    }
  } else {
    ptx::take_registers<Tile::kRegisters>();
    Ring<Tile> ring(base);
    Write finish(arguments, base + Ring<Tile>::kStagingAt + group * Tile::kStaging,
                 base + Ring<Tile>::kTermsAt + group * Tile::kTerms);
    Multiply<T, Tile, kRowsOfB> multiply(ring, group, Member(arguments).sharing());
    for (Work work; ask(ring, work);) {
      int m = work.m + group * Tile::kBlocks * 64, n = work.n;
      if constexpr (Write::kBegins) {
        if (work.begin == 0) finish.template begin<Tile::kBlocks * 64, Tile::kColumns>(m, n);
      }
      std::conditional_t<kByBlock, float, typename Sums<T>::type> d[Tile::kBlocks][Tile::kValues];
      if constexpr (kByBlock) {
        static_assert(Tile::kDepth == 128 && Tile::kColumns == 128 &&
                      128 % (Tile::kBlocks * 64) == 0);
        multiply.run_by_block(d, work.begin, work.end, Factor(arguments, m, n));
      } else {
        multiply.run(d, work.end - work.begin);
      }
      int slot = worker * cluster + ptx::cluster_rank();
      if (work.begin > 0) {
        leave<Tile>(d, arguments, slot, group);
        continue;
      }
      if (work.end < schedule.steps) collect<Tile>(d, arguments, worker, cluster, group);
      if constexpr (Write::kBegins) finish.arrive();
#pragma unroll
      for (int i = 0; i < Tile::kBlocks; ++i) {
        auto& sums = reinterpret_cast<float(&)[Tile::kValues]>(d[i]);
        if (m + i * 64 < arguments.M) {
          finish.template write<Tile::kBuffers>(sums, m + i * 64, n);
        }
      }
    }
  }
  __syncwarp();
  ptx::cluster_sync();  // another block may still write here
#endif
}

}  // namespace sparsetrain
