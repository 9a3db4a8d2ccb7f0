// What a product is launched with.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "schedule.cuh"

namespace sparsetrain {

enum class Activation : int { kNone, kSquaredRelu, kGelu, kTanhGelu };

// What becomes of a sum: activation(sum + bias) + residual, rounded once. The result is the product
// [M, N] or its transpose [N, M], contiguous; `width` is its last dimension.
struct Epilogue {
  const void* bias;                         // 16-bit, along the width; or null
  const void* residual;                     // of the result's type; or null
  int64_t residual_rows, residual_columns;  // strides in elements
  void* out;
  int64_t width;
  Activation activation;
  bool transposed;
  bool wide;   // float32
  bool pairs;  // two neighbours of a row lie where one store may write them
};

// What the sums of 8-bit values are multiplied by before the bias is added: the scale of the row of
// A, then that of the column of B. A step of 1, or 0: one scale for all.
struct Scales {
  const float *a, *b;
  int step_a, step_b;
};

// Scales of 128 rows of A, or columns of B, x 128 of K each: strides in elements from a block to
// the next of the operand, and to the next along K. Strides of 0: one scale for all.
struct BlockScales {
  const float* scales;
  int next, next_k;
};

struct Arguments {
  CUtensorMap a, meta, b, d;
  Schedule schedule;
  Epilogue epilogue;
  int M, N;
  int cluster_m;             // blocks below each other that share B
  int cluster_n;             // blocks side by side that share A
  float* partial;            // a slot for each block; or null
  int* ready;                // a flag for each warpgroup of each block, 0 at launch
  Scales scales;             // of 8-bit values
  bool wide_bias;            // float32, of a product of 8-bit values
  const float* factors_out;  // of an 8-bit result, one for each of its rows

  // Of kernels by block.
  BlockScales blocks_a, blocks_b;
};

}  // namespace sparsetrain
