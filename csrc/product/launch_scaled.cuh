// Launches the kernels of one tile of 8-bit values.
#pragma once

#include "launch.cuh"
#include "scaled.cuh"

namespace sparsetrain {

// Of e4m3 values with scales; columns of B are contiguous. variant.type: of what is returned, any
// where that is float32.
template <class Tile>
void launch_scaled(const Arguments& arguments, const Variant& variant, int blocks,
                   cudaStream_t stream) {
  using E4m3 = __nv_fp8_e4m3;
  auto run = [&](auto kernel) { launch_kernel<Tile>(kernel, arguments, blocks, stream); };
  auto of_type = [&](auto type) {
    using T = decltype(type);
    bool plain = variant.finish == Finish::kPlain;
    run(plain ? product<E4m3, Tile, 0, Stored<T, T, Scaled<T>>>
              : product<E4m3, Tile, 0, General<T, Scaled<T>>>);
  };
  variant.type == ScalarType::Half ? of_type(__half{}) : of_type(__nv_bfloat16{});
}

extern template void launch_scaled<Tile<2, 1, 256, 1>>(const Arguments&, const Variant&, int,
                                                       cudaStream_t);
extern template void launch_scaled<Tile<2, 2, 192, 1>>(const Arguments&, const Variant&, int,
                                                       cudaStream_t);
extern template void launch_scaled<Tile<2, 2, 128, 1>>(const Arguments&, const Variant&, int,
                                                       cudaStream_t);

}  // namespace sparsetrain
