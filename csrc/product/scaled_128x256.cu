#include "launch_scaled.cuh"

namespace sparsetrain {

template void launch_scaled<Tile<2, 1, 256, 1>>(const Arguments&, const Variant&, int,
                                                cudaStream_t);

}  // namespace sparsetrain
