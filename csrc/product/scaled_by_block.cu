#include "launch_scaled.cuh"

namespace sparsetrain {

template void launch_scaled<Tile<2, 2, 128, 1>, true>(const Arguments&, const Variant&, int,
                                                      cudaStream_t);

}  // namespace sparsetrain
