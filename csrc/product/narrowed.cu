#include "narrowed.h"

#include "launch.cuh"
#include "narrowed.cuh"

namespace sparsetrain {
namespace {

template <class Tile>
void launch(const Arguments& arguments, int blocks, cudaStream_t stream) {
  auto run = [&](auto function) {
    using Write = Stored<__nv_bfloat16, __nv_fp8_e4m3, ScaledGelu<decltype(function)>>;
    launch_kernel<Tile>(product<__nv_fp8_e4m3, Tile, 0, Write>, arguments, blocks, stream);
  };
  bool tanh = arguments.epilogue.activation == Activation::kTanhGelu;
  tanh ? run(HalfTanhGelu{}) : run(HalfNormalGelu{});
}

}  // namespace

void launch_narrowed(int64_t tile, const Arguments& arguments, int blocks, cudaStream_t stream) {
  if (tile == 0) return launch<Tile<2, 1, 256, 1>>(arguments, blocks, stream);
  launch<Tile<2, 2, 128, 1>>(arguments, blocks, stream);
}

}  // namespace sparsetrain
