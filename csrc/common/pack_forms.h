// A matrix of any type made 2:4 by any rule and packed: what sparsify24, apply24 and pack_into24
// launch.
#pragma once

#include "host.h"

namespace sparsetrain {

struct Packed {
  void* values;     // [rows, columns / 2]
  uint8_t* meta;    // atoms, [ceil(columns / 64), ceil(rows / 64), 512]
  void* values_t;   // [columns, padded rows / 2]
  uint8_t* meta_t;  // atoms, [padded rows / 64, ceil(columns / 64), 512]
  void* dense;      // [rows, columns], with zeros
};

struct Bits {
  uint8_t* mask;            // [rows, ceil(columns / 8)], or null
  const uint8_t* given;     // the same shape; or null, then the rule chooses
  const uint8_t* previous;  // the same shape, or null
  unsigned long long* flips;
};

// Both orientations, and no dense. `type` is that of the values.
void pack_both_forms(const Tensor& x, ScalarType type, const Packed& packed, const Bits& bits,
                     const std::string& rule);

// Those that are not null: by the rule "row" no transposed ones, which have a mask of their own.
void pack_some_forms(const Tensor& x, ScalarType type, const Packed& packed, const Bits& bits,
                     const std::string& rule);

}  // namespace sparsetrain
