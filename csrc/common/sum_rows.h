#pragma once

#include "host.h"

namespace sparsetrain {

// out [columns] = the sums of the columns of sums [rows, columns], float32, always in the same
// order.
void sum_rows(const Tensor& sums, const Tensor& out);

}  // namespace sparsetrain
