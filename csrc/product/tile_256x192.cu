#include "launch.cuh"

namespace sparsetrain {

template void launch<Tile<2, 2, 192>>(const Arguments&, const Variant&, int, cudaStream_t);

}  // namespace sparsetrain
