// Launches products of e4m3 values that give GELU of the result in e4m3.
#pragma once

#include <cuda_runtime.h>

#include "arguments.h"

namespace sparsetrain {

// tile: of kTiles, of those that has_tile says 8-bit values have.
void launch_narrowed(int64_t tile, const Arguments& arguments, int blocks, cudaStream_t stream);

}  // namespace sparsetrain
