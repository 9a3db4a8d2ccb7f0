// Scales of whole rows where a block has a tile: the tiles of 64 rows are the blocks of a cluster.
// They keep what they packed in 16 bits in shared memory and send each other the largest magnitudes
// of their rows. For sm_90.
#pragma once

#include "../product/ptx.cuh"
#include "quantized.h"
#include "scales.cuh"
#include "square.cuh"
#include "staging.cuh"

namespace sparsetrain {

// Blocks of a cluster, at 256 columns each. An H200 takes 16 where a kernel asks for it.
constexpr int kMostBlocks = 16;

// A cluster is a row of the grid.
struct PlaceInCluster : Place<kWide> {
  __device__ PlaceInCluster(const Matrix& x) : Place(x) {
    first_row = blockIdx.y * kRows;
    first_column = blockIdx.x * kWide;
    rows = static_cast<int>(max(min(x.rows - first_row, int64_t{kRows}), int64_t{0}));
    columns = static_cast<int>(min(x.columns - first_column, int64_t{kWide}));
    left = 8 * q < columns ? rows - 8 * p : 0;
  }
};

// Metadata of the rows of a tile as of 8-bit values: two atoms, side by side.
struct RowAtoms8 {
  Atoms8 atoms;

  // Of row 8 p + i, columns 8 q to 8 q + 7.
  __device__ uint8_t& at(int p, int q, int i) { return atoms.at(p + q / 16 * 8, q % 16, i); }

  __device__ void store(uint8_t* meta, const Matrix& x, const PlaceInCluster& at) const {
    each(x, at, [&](int i, int64_t to) {
      reinterpret_cast<uint4*>(meta)[to] = reinterpret_cast<const uint4*>(atoms.bytes)[i];
    });
  }
  __device__ void load(const uint8_t* meta, const Matrix& x, const PlaceInCluster& at) {
    each(x, at, [&](int i, int64_t from) {
      reinterpret_cast<uint4*>(atoms.bytes)[i] = reinterpret_cast<const uint4*>(meta)[from];
    });
  }

 private:
  template <class F>
  __device__ void each(const Matrix& x, const PlaceInCluster& at, F f) const {
    constexpr int per_atom = kAtom8 / 16;
    int64_t row_blocks = (x.rows + 63) / 64;
    int i = threadIdx.x, k = i / per_atom;
    if (i < 2 * per_atom && at.rows > 0 && kBlock * k < at.columns)
      f(i, ((at.first_column / kBlock + k) * row_blocks + at.first_row / 64) * per_atom +
               i % per_atom);
  }
};

// Sends four words to the same place of a block of the cluster; its barrier hears of their bytes.
__device__ inline void send(const uint4* to, const uint64_t* barrier, int rank, uint4 words) {
  asm volatile(
      "{\n.reg .b32 remote, heard;\n"
      "mapa.shared::cluster.u32 remote, %0, %2;\n"
      "mapa.shared::cluster.u32 heard, %1, %2;\n"
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32"
      " [remote], {%3, %4, %5, %6}, [heard];\n}" ::"r"(ptx::shared_address(to)),
      "r"(ptx::shared_address(barrier)), "r"(rank), "r"(words.x), "r"(words.y), "r"(words.z),
      "r"(words.w)
      : "memory");
}

// The rows of a tile that are packed in 16 bits, and their way to 8.
template <class T>
struct HeldRows {
  static constexpr int kUnits = kWide / 2 * sizeof(T) / 16;  // of 16 bytes, in a row
  static constexpr int kLines = kWide / kUnits;              // rows that the threads take at a time
  static_assert(kUnits == 16 && kRows == 4 * kLines);

  Lines<kWide, kRows, kWide / 2 * sizeof(T), 64> values;
  uint4 largest[kMostBlocks][kLines];  // of each block: 16 bits of rows i, i + 16, i + 32, i + 48
  float inverse[kRows];
  alignas(8) uint64_t barrier;

  // Before anything else. The blocks may send to each other once `joined`.
  __device__ void begin() {
    if (threadIdx.x == 0) {
      ptx::barrier_init(ptx::shared_address(&barrier), 1);
      ptx::fence_barrier_init();
      ptx::barrier_expect(ptx::shared_address(&barrier),
                          static_cast<int>(gridDim.x * sizeof(largest[0])));
    }
    asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
  }
  __device__ static void joined() { asm volatile("barrier.cluster.wait;" ::: "memory"); }

  // Once all of `values` is there: to q [rows, columns / 2], in float8_e4m3fn, and their scales.
  __device__ void finish(const Matrix& x, const PlaceInCluster& at, void* q, float* scales,
                         bool power_of_two) {
    int line = threadIdx.x / kUnits, unit = threadIdx.x % kUnits;
    uint32_t most[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) most[i] = largest_of_row(line + kLines * i, unit);
    joined();
    if (unit < static_cast<int>(gridDim.x))
      send(&largest[blockIdx.x][line], &barrier, unit,
           make_uint4(most[0], most[1], most[2], most[3]));
    ptx::barrier_wait(ptx::shared_address(&barrier), 0);
    if (threadIdx.x < kRows) {
      int row = threadIdx.x;
      uint32_t of_row = 0;
      for (int block = 0; block < static_cast<int>(gridDim.x); ++block)
        of_row = max(
            of_row, reinterpret_cast<const uint32_t*>(&largest[block][row % kLines])[row / kLines]);
      inverse[row] = inverse_of<__nv_fp8_e4m3>(magnitude(floats_of(T(), of_row).x), power_of_two);
      if (blockIdx.x == 0 && row < at.rows) scales[at.first_row + row] = __frcp_rn(inverse[row]);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      int row = line + kLines * i;
      if (row >= at.rows || 16 * unit >= at.columns) continue;
      uint4 eight = values.template at<uint4>(row, 16 * unit);
      int64_t to = (at.first_row + row) * (x.columns / 2) + at.first_column / 2 + 8 * unit;
      *reinterpret_cast<uint2*>(static_cast<uint8_t*>(q) + to) =
          make_uint2(four(eight.x, eight.y, inverse[row]), four(eight.z, eight.w, inverse[row]));
    }
  }

 private:
  // Of what the block has of a row, in all its threads.
  __device__ uint32_t largest_of_row(int row, int unit) {
    uint4 eight = values.template at<uint4>(row, 16 * unit);
    constexpr uint32_t kMagnitudes = 0x7fff7fffu;
    uint32_t pair = __vmaxu2(__vmaxu2(eight.x & kMagnitudes, eight.y & kMagnitudes),
                             __vmaxu2(eight.z & kMagnitudes, eight.w & kMagnitudes));
    uint32_t most = max(pair & 0xffff, pair >> 16);
#pragma unroll
    for (int lane = kUnits / 2; lane; lane /= 2)
      most = max(most, __shfl_xor_sync(0xffffffff, most, lane));
    return most;
  }

  __device__ static uint32_t four(uint32_t first, uint32_t second, float inverse) {
    float2 a = floats_of(T(), first), b = floats_of(T(), second);
    return EightBits<__nv_fp8_e4m3>::four({__fmul_rn(a.x, inverse), __fmul_rn(a.y, inverse),
                                           __fmul_rn(b.x, inverse), __fmul_rn(b.y, inverse)});
  }
};

// Whether rows have a scale of their own in one pass: on sm_90, float8_e4m3fn from 16-bit rows of
// whole vectors of 8-bit values, by a rule whose one mask serves both orientations.
inline bool scales_in_one_pass(const Tensor& x, const std::string& rule, ScalarType dtype) {
  int major = 0;
  STD_CUDA_CHECK(
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, x.get_device_index()));
  return major == 9 && (rule == "transposable" || rule == "transposable_l2") &&
         x.element_size() == 2 && dtype == ScalarType::Float8_e4m3fn && x.numel() > 0 &&
         rows_are_vectors(x) && x.size(1) % 16 == 0 && x.size(1) <= kMostBlocks * kWide &&
         padded_rows(x.size(0)) / kRows <= 65535;
}

// A block of kWide threads for each tile of x, those of 64 rows a cluster.
template <class Kernel, class... Arguments>
void launch_clusters(Kernel kernel, size_t shared, const Tensor& x, const Arguments&... arguments) {
  auto across = static_cast<unsigned>(ceil_div(x.size(1), kWide));
  auto set = [&](cudaFuncAttribute attribute, int value) {
    STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, attribute, value));
  };
  set(cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
  set(cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  cudaLaunchAttribute size;
  size.id = cudaLaunchAttributeClusterDimension;
  size.val.clusterDim = {across, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(across, static_cast<unsigned>(padded_rows(x.size(0)) / kRows));
  config.blockDim = dim3(kWide);
  config.dynamicSmemBytes = shared;
  config.stream = current_stream(x);
  config.attrs = &size;
  config.numAttrs = 1;
  STD_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, arguments...));
}

}  // namespace sparsetrain
