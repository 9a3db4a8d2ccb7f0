#pragma once

#include "common/host.h"

namespace sparsetrain {

// mask, previous: uint8 of one shape. Returns an int64 scalar: the bits that differ.
Tensor flips24(const Tensor& mask, const Tensor& previous);

}  // namespace sparsetrain
