#include "maps.h"

#include <cudaTypedefs.h>

namespace sparsetrain {
namespace {

// The driver's function, found at run time: a library linked with libcuda does not load without it.
PFN_cuTensorMapEncodeTiled_v12000 find_encode() {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result;
#if CUDART_VERSION >= 12050
  STD_CUDA_CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000,
                                                  cudaEnableDefault, &result));
#else
  STD_CUDA_CHECK(
      cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &result));
#endif
  STD_TORCH_CHECK(found != nullptr, "the NVIDIA driver has no cuTensorMapEncodeTiled; update it");
  return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(found);
}

CUtensorMap encode(CUtensorMapDataType type, int rank, const void* address, const cuuint64_t* sizes,
                   const cuuint64_t* pitches, const cuuint32_t* box, CUtensorMapSwizzle swizzle) {
  static const auto encode_tiled = find_encode();
  CUtensorMap map;
  const cuuint32_t ones[3] = {1, 1, 1};
  CUresult result =
      encode_tiled(&map, type, rank, const_cast<void*>(address), sizes, pitches, box, ones,
                   CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                   CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  STD_TORCH_CHECK(result == CUDA_SUCCESS, "cuTensorMapEncodeTiled: error ",
                  static_cast<int>(result), " for a matrix of ", sizes[1], " x ", sizes[0],
                  "; this is a bug of sparsetrain, please report it");
  return map;
}

}  // namespace

CUtensorMap map_rows(const Rows& rows) {
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(rows.width),
                               static_cast<cuuint64_t>(rows.height)};
  const cuuint64_t pitches[1] = {static_cast<cuuint64_t>(rows.pitch)};
  const cuuint32_t box[2] = {static_cast<cuuint32_t>(rows.box_width),
                             static_cast<cuuint32_t>(rows.box_height)};
  auto type = rows.bytes == 4   ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32
              : rows.bytes == 2 ? CU_TENSOR_MAP_DATA_TYPE_UINT16
                                : CU_TENSOR_MAP_DATA_TYPE_UINT8;
  return encode(type, 2, rows.address, sizes, pitches, box, rows.swizzle);
}

CUtensorMap map_columns(const Rows& rows, int columns) {
  const cuuint64_t sizes[3] = {64, static_cast<cuuint64_t>(rows.height),
                               static_cast<cuuint64_t>(ceil_div(rows.width, 64))};
  const cuuint64_t pitches[2] = {static_cast<cuuint64_t>(rows.pitch), 128};
  const cuuint32_t box[3] = {64, static_cast<cuuint32_t>(rows.box_height),
                             static_cast<cuuint32_t>(columns)};
  return encode(CU_TENSOR_MAP_DATA_TYPE_UINT16, 3, rows.address, sizes, pitches, box, rows.swizzle);
}

CUtensorMap map_meta(const Tensor& meta, int atoms) {
  const cuuint64_t bytes = meta.size(2);  // of an atom
  const cuuint64_t sizes[3] = {bytes / 4, static_cast<cuuint64_t>(meta.size(1)),
                               static_cast<cuuint64_t>(meta.size(0))};
  const cuuint64_t pitches[2] = {bytes, bytes * sizes[1]};
  const cuuint32_t box[3] = {static_cast<cuuint32_t>(bytes / 4), static_cast<cuuint32_t>(atoms), 1};
  return encode(CU_TENSOR_MAP_DATA_TYPE_UINT32, 3, meta.const_data_ptr(), sizes, pitches, box,
                CU_TENSOR_MAP_SWIZZLE_NONE);
}

}  // namespace sparsetrain
