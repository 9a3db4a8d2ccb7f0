// How the copy engine sees a matrix: tensor maps, made by the driver.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "../common/host.h"

namespace sparsetrain {

// Rows of values of some bytes each, `width` of them, `pitch` bytes apart; copied in boxes.
// Places outside are zero when loaded and are not stored. The address and the pitch are multiples
// of 16 bytes.
struct Rows {
  const void* address;
  int64_t width, height, pitch;
  int box_width, box_height;
  CUtensorMapSwizzle swizzle;
  int bytes = 2;  // 1, 2 or 4 (floats)
};

CUtensorMap map_rows(const Rows& rows);

// The same matrix as columns of 64 values, [width / 64, height, 64], in boxes of some columns, a
// few rows of each; the pitch has room for whole columns.
CUtensorMap map_columns(const Rows& rows, int columns);

// Metadata [ceil(K/64), ceil(M/64), 512], or [ceil(K/128), ceil(M/64), 1024], in boxes of some
// atoms below each other.
CUtensorMap map_meta(const Tensor& meta, int atoms);

}  // namespace sparsetrain
