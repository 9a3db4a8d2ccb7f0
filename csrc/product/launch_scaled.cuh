// Launches the kernels of one tile of 8-bit values.
#pragma once

#include "launch.cuh"
#include "scaled.cuh"

namespace sparsetrain {

// Of e4m3 or int8 values with scales; columns of B are contiguous. kByBlock: scales of either
// operand are by block.
template <class Tile, bool kByBlock = false>
void launch_scaled(const Arguments& arguments, const Variant& variant, int blocks,
                   cudaStream_t stream) {
  auto run = [&](auto kernel) { launch_kernel<Tile>(kernel, arguments, blocks, stream); };
  auto of_types = [&](auto value, auto result) {
    using Q = decltype(value);
    using T = decltype(result);
    using Terms = Scaled<std::conditional_t<kByBlock, float, typename Sums<Q>::type>, T>;
    bool plain = variant.finish == Finish::kPlain;
    run(plain ? product<Q, Tile, 0, Stored<T, T, Terms>, kByBlock>
              : product<Q, Tile, 0, General<T, Terms>, kByBlock>);
  };
  auto of_values = [&](auto value) {
    variant.result == ScalarType::Half ? of_types(value, __half{})
                                       : of_types(value, __nv_bfloat16{});
  };
  variant.values == ScalarType::Char ? of_values(int8_t{}) : of_values(__nv_fp8_e4m3{});
}

extern template void launch_scaled<Tile<2, 1, 256, 1>>(const Arguments&, const Variant&, int,
                                                       cudaStream_t);
extern template void launch_scaled<Tile<2, 2, 192, 1>>(const Arguments&, const Variant&, int,
                                                       cudaStream_t);
extern template void launch_scaled<Tile<2, 2, 128, 1>>(const Arguments&, const Variant&, int,
                                                       cudaStream_t);
extern template void launch_scaled<Tile<2, 2, 128, 1>, true>(const Arguments&, const Variant&, int,
                                                             cudaStream_t);

}  // namespace sparsetrain
