#include "random24.h"

#include "common/philox.cuh"

namespace sparsetrain {
namespace {

// PATTERNS of sparsetrain/reference/masks24.py: bit 4 r + c is row r, column c.
__constant__ uint16_t patterns[90] = {
    0xcc33, 0xca53, 0xac53, 0xc693, 0x6c93, 0xc963, 0x9c63, 0xc5a3, 0x5ca3, 0xc3c3, 0xa5c3, 0x69c3,
    0x96c3, 0x5ac3, 0x3cc3, 0xca35, 0xac35, 0xaa55, 0xa695, 0x6a95, 0xa965, 0x9a65, 0xc3a5, 0xa5a5,
    0x69a5, 0x96a5, 0x5aa5, 0x3ca5, 0xa3c5, 0x3ac5, 0xc639, 0x6c39, 0xa659, 0x6a59, 0x6699, 0xc369,
    0xa569, 0x6969, 0x9669, 0x5a69, 0x3c69, 0x65a9, 0x56a9, 0x63c9, 0x36c9, 0xc936, 0x9c36, 0xa956,
    0x9a56, 0xc396, 0xa596, 0x6996, 0x9696, 0x5a96, 0x3c96, 0x9966, 0x95a6, 0x59a6, 0x93c6, 0x39c6,
    0xc53a, 0x5c3a, 0xc35a, 0xa55a, 0x695a, 0x965a, 0x5a5a, 0x3c5a, 0x659a, 0x569a, 0x956a, 0x596a,
    0x55aa, 0x53ca, 0x35ca, 0xc33c, 0xa53c, 0x693c, 0x963c, 0x5a3c, 0x3c3c, 0xa35c, 0x3a5c, 0x639c,
    0x369c, 0x936c, 0x396c, 0x53ac, 0x35ac, 0x33cc,
};

// A thread takes four neighbouring tiles, which share a draw: four rows of two bytes.
__global__ void __launch_bounds__(256)
    random24_kernel(int64_t rows, int64_t columns, const int64_t* seed, uint8_t* mask) {
  __shared__ uint16_t pattern[90];
  if (threadIdx.x < 90) pattern[threadIdx.x] = patterns[threadIdx.x];
  __syncthreads();
  int64_t row_bytes = ceil_div(columns, 8), draws = ceil_div(columns, 16);
  uint2 key = key_of(seed);
  for (int64_t i = blockIdx.x * int64_t{256} + threadIdx.x; i < ceil_div(rows, 4) * draws;
       i += gridDim.x * int64_t{256}) {
    int64_t tile_row = i / draws, draw = i % draws;
    uint4 words = philox4x32(
        make_uint4(static_cast<uint32_t>(draw), static_cast<uint32_t>(tile_row), 0, 1), key);
    uint32_t word[4] = {words.x, words.y, words.z, words.w};
    uint32_t of_row[4] = {0, 0, 0, 0};
#pragma unroll
    for (int tile = 0; tile < 4; ++tile) {
      if (16 * draw + 4 * tile >= columns) break;
      uint32_t bits = pattern[__umulhi(word[tile], 90)];
#pragma unroll
      for (int r = 0; r < 4; ++r) of_row[r] |= (bits >> 4 * r & 15) << 4 * tile;
    }
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      if (4 * tile_row + r >= rows) break;
      uint8_t* to = mask + (4 * tile_row + r) * row_bytes + 2 * draw;
      to[0] = of_row[r];
      if (2 * draw + 1 < row_bytes) to[1] = of_row[r] >> 8;
    }
  }
}

}  // namespace

Tensor random24(int64_t rows, int64_t columns, const Tensor& seed) {
  STD_TORCH_CHECK(rows >= 0, "rows: ", rows, " is negative; pass the size of the matrix");
  STD_TORCH_CHECK(columns >= 0 && columns % 4 == 0, "columns: ", columns,
                  " are not a multiple of 4; round up");
  check_scalar("seed", seed, ScalarType::Long, seed);
  DeviceGuard guard(seed.get_device_index());
  Tensor mask = torch::stable::new_empty(seed, {rows, ceil_div(columns, 8)}, ScalarType::Byte);
  if (mask.numel() == 0) return mask;
  int64_t blocks = ceil_div(ceil_div(rows, 4) * ceil_div(columns, 16), 256);
  random24_kernel<<<static_cast<unsigned>(blocks < 0x7fffffff ? blocks : 0x7fffffff), 256, 0,
                    current_stream(seed)>>>(rows, columns,
                                            static_cast<const int64_t*>(seed.const_data_ptr()),
                                            static_cast<uint8_t*>(mask.mutable_data_ptr()));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return mask;
}

}  // namespace sparsetrain
