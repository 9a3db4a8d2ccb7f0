// Scales of whole rows where a block has a tile: the tiles of the same rows are the blocks of a
// cluster. They keep what they packed in 16 bits in shared memory and send each other the largest
// magnitudes of their rows. For sm_90.
#pragma once

#include "../product/ptx.cuh"
#include "quantized.h"
#include "scales.cuh"
#include "square.cuh"
#include "staging.cuh"

namespace sparsetrain {

// Blocks of a cluster. An H200 takes 16 where a kernel asks for it.
constexpr int kMostBlocks = 16;

// A tile is 64 x 256; 32 x 512 where rows are longer than a cluster of those.
constexpr int kWider = 512;
template <int kColumns>
constexpr int kTileRows = kRows * kWide / kColumns;

// A cluster is a row of the grid.
template <int kColumns>
struct PlaceInCluster : Place<kColumns> {
  __device__ PlaceInCluster(const Matrix& x) : Place<kColumns>(x) {
    constexpr int kTile = kTileRows<kColumns>;
    this->first_row = blockIdx.y * kTile;
    this->first_column = blockIdx.x * kColumns;
    this->rows = static_cast<int>(max(min(x.rows - this->first_row, int64_t{kTile}), int64_t{0}));
    this->columns = static_cast<int>(min(x.columns - this->first_column, int64_t{kColumns}));
    this->left = 8 * this->q < this->columns ? this->rows - 8 * this->p : 0;
  }
};

// Metadata of the rows of a tile as of 8-bit values: atoms side by side, or halves of them.
template <int kColumns>
struct RowAtoms8 {
  static constexpr int kLines = kTileRows<kColumns>;  // 16 bytes of an atom each
  static constexpr int kUnits = kColumns / kBlock * kLines;
  alignas(16) uint8_t bytes[16 * kUnits];

  // Of row 8 p + i, columns 8 q to 8 q + 7: `Atoms8::at` of the rows that the tile has of an atom.
  __device__ uint8_t& at(int p, int q, int i) {
    int lane = p / 2 * 32 + i * 4 + q / 4 % 2 * 2 + p % 2;
    return bytes[q / 16 * 16 * kLines + lane * 8 + q / 8 % 2 * 4 + q / 2 % 2 * 2 + q % 2];
  }

  __device__ void store(uint8_t* meta, const Matrix& x, const PlaceInCluster<kColumns>& at) const {
    each(x, at, [&](int i, int64_t to) {
      reinterpret_cast<uint4*>(meta)[to] = reinterpret_cast<const uint4*>(bytes)[i];
    });
  }
  __device__ void load(const uint8_t* meta, const Matrix& x, const PlaceInCluster<kColumns>& at) {
    each(x, at, [&](int i, int64_t from) {
      reinterpret_cast<uint4*>(bytes)[i] = reinterpret_cast<const uint4*>(meta)[from];
    });
  }

 private:
  // Rows past the last have metadata where their atom has other rows.
  template <class F>
  __device__ void each(const Matrix& x, const PlaceInCluster<kColumns>& at, F f) const {
    int64_t row_blocks = (x.rows + 63) / 64;
    int i = threadIdx.x, k = i / kLines;
    if (i < kUnits && at.first_row / 64 < row_blocks && kBlock * k < at.columns)
      f(i, ((at.first_column / kBlock + k) * row_blocks + at.first_row / 64) * (kAtom8 / 16) +
               at.first_row % 64 + i % kLines);
  }
};

// Metadata of the columns of a tile in 16 bits, of 32 rows: half of each atom, every other word.
template <int kColumns>
struct ColumnAtoms {
  alignas(16) uint8_t bytes[kColumns / 64 * kAtom / 2];

  // `Atoms::at` of the rows that the tile has.
  __device__ uint8_t& at(int atom, int line8, int value8, int i) {
    return bytes[atom * (kAtom / 2) + line8 / 2 % 4 * 64 + value8 / 2 % 2 * 32 + i * 4 +
                 line8 % 2 * 2 + value8 % 2];
  }

  __device__ void store_columns(uint8_t* meta_t, const Matrix& x,
                                const PlaceInCluster<kColumns>& at) const {
    int64_t column_blocks = (x.columns + 63) / 64;
    auto* to = reinterpret_cast<uint32_t*>(
        meta_t + (at.first_row / 64 * column_blocks + at.first_column / 64) * kAtom);
    int words = (at.columns + 63) / 64 * (kAtom / 8);
    for (int i = threadIdx.x; i < words; i += kWide)
      to[2 * i + at.first_row / 32 % 2] = reinterpret_cast<const uint32_t*>(bytes)[i];
  }
};
template <>
struct ColumnAtoms<kWide> : Atoms<kWide> {};

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
template <class T, int kColumns>
struct HeldRows {
  static constexpr int kTile = kTileRows<kColumns>;
  static constexpr int kUnits = kColumns / 2 * sizeof(T) / 16;  // of 16 bytes, in a row
  static constexpr int kLines = kWide / kUnits;  // rows that the threads take at a time
  static_assert(kMostBlocks <= kUnits && kUnits <= 32 && kTile == 4 * kLines);

  Lines<kWide, kTile, kColumns / 2 * sizeof(T), 64> values;
  uint4 largest[kMostBlocks][kLines];  // of each block: of rows i, i + kLines, ..., i + 3 kLines
  float inverse[kTile];
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
  __device__ void finish(const Matrix& x, const PlaceInCluster<kColumns>& at, void* q,
                         float* scales, bool power_of_two) {
    int line = threadIdx.x / kUnits, unit = threadIdx.x % kUnits;
    uint32_t most[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) most[i] = largest_of_row(line + kLines * i, unit);
    joined();
    if (unit < static_cast<int>(gridDim.x))
      send(&largest[blockIdx.x][line], &barrier, unit,
           make_uint4(most[0], most[1], most[2], most[3]));
    ptx::barrier_wait(ptx::shared_address(&barrier), 0);
    if (threadIdx.x < kTile) {
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
         rows_are_vectors(x) && x.size(1) % 16 == 0 && x.size(1) <= kMostBlocks * kWider &&
         padded_rows(x.size(0)) / kTileRows<kWider> <= 65535;
}

// Calls f with the columns of a tile of x.
template <class F>
void with_tile(const Tensor& x, F f) {
  if (x.size(1) <= kMostBlocks * kWide) {
    f(std::integral_constant<int, kWide>());
  } else {
    f(std::integral_constant<int, kWider>());
  }
}

// A block of kWide threads for each tile of x, those of the same rows a cluster.
template <int kColumns, class Kernel, class... Arguments>
void launch_clusters(Kernel kernel, size_t shared, const Tensor& x, const Arguments&... arguments) {
  auto across = static_cast<unsigned>(ceil_div(x.size(1), kColumns));
  auto set = [&](cudaFuncAttribute attribute, int value) {
    STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, attribute, value));
  };
  set(cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
  set(cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  cudaLaunchAttribute size;
  size.id = cudaLaunchAttributeClusterDimension;
  size.val.clusterDim = {across, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim =
      dim3(across, static_cast<unsigned>(padded_rows(x.size(0)) / kTileRows<kColumns>));
  config.blockDim = dim3(kWide);
  config.dynamicSmemBytes = shared;
  config.stream = current_stream(x);
  config.attrs = &size;
  config.numAttrs = 1;
  STD_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, arguments...));
}

}  // namespace sparsetrain
