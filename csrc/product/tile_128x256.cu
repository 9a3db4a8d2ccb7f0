#include "launch.cuh"

namespace sparsetrain {

template void launch<Tile<2, 1, 256>>(const Arguments&, const Variant&, int, cudaStream_t);

}  // namespace sparsetrain
