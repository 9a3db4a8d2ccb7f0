// What `python -m sparsetrain tune` and the reports ask of the library; tensors on the CPU.
#pragma once

#include "../common/host.h"

namespace sparsetrain {

// int64 [tiles, 2]: rows and columns of every tile; a config names one by its place.
Tensor matmul24_tiles();

// problems int64 [n, 7] -> configs int64 [n, 5], in the order of the structs in choose.h: what
// would run on a GPU of so many multiprocessors.
Tensor matmul24_choice(const Tensor& problems, int64_t multiprocessors);

// int64 [n]: nanoseconds that the model of choose.cpp expects the best config to take.
Tensor matmul24_expected(const Tensor& problems, int64_t multiprocessors);

// Replaces the table of exceptions: int64 [n, 12], a problem and its config.
void matmul24_table(const Tensor& table);

}  // namespace sparsetrain
