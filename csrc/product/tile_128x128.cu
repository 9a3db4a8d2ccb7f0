#include "launch.cuh"

namespace sparsetrain {

template void launch<Tile<2, 1, 128>>(const Arguments&, const Variant&, int, cudaStream_t);

}  // namespace sparsetrain
