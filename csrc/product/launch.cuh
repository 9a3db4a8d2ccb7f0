// Launches the kernels of one tile.
#pragma once

#include "../common/host.h"
#include "activated.cuh"
#include "kernel.cuh"

namespace sparsetrain {

// The epilogue.
enum class Finish { kPlain, kGelu, kWide, kNarrow, kGeneral };

template <class Tile, class Kernel>
void launch_kernel(Kernel kernel, const Arguments& arguments, int blocks, cudaStream_t stream) {
  STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      Ring<Tile>::kBytes));
  cudaLaunchAttribute cluster;
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned>(arguments.cluster_m * arguments.cluster_n), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(Tile::kThreads);
  config.dynamicSmemBytes = Ring<Tile>::kBytes;
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = 1;
  STD_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, arguments));
}

// Which of a tile's kernels. There is kWide for rows of B alone: gradients of weights; kGelu of
// 16-bit values, where columns of B are contiguous.
struct Variant {
  ScalarType values;
  ScalarType result;  // of 8-bit values
  bool rows_of_b;
  Finish finish;
};

// Of 16-bit values, on `blocks` blocks in clusters.
template <class Tile>
void launch(const Arguments& arguments, const Variant& variant, int blocks, cudaStream_t stream) {
  auto run = [&](auto kernel) { launch_kernel<Tile>(kernel, arguments, blocks, stream); };
  auto of_type = [&](auto type) {
    using T = decltype(type);
    bool plain = variant.finish == Finish::kPlain;
    using Gelu = Stored<T, T, Activated<T, NormalGelu>>;
    if (variant.finish == Finish::kGelu) return run(product<T, Tile, 0, Gelu>);
    if (!variant.rows_of_b)
      return run(plain ? product<T, Tile, 0, Plain<T>> : product<T, Tile, 0, General<T>>);
    if (variant.finish == Finish::kWide) return run(product<T, Tile, 1, Wide<T>>);
    run(plain ? product<T, Tile, 1, Plain<T>> : product<T, Tile, 1, General<T>>);
  };
  variant.values == ScalarType::Half ? of_type(__half{}) : of_type(__nv_bfloat16{});
}

// How many clusters of so many blocks the current device runs at a time.
int resident_clusters(int blocks);

extern template void launch<Tile<2, 1, 256>>(const Arguments&, const Variant&, int, cudaStream_t);
extern template void launch<Tile<2, 2, 192>>(const Arguments&, const Variant&, int, cudaStream_t);
extern template void launch<Tile<2, 2, 128>>(const Arguments&, const Variant&, int, cudaStream_t);
extern template void launch<Tile<2, 1, 128>>(const Arguments&, const Variant&, int, cudaStream_t);

}  // namespace sparsetrain
