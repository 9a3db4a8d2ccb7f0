// GELU of the sums of 16-bit values, in the registers that the copy engine's pieces are made of.
#pragma once

#include "../common/gelu.cuh"
#include "epilogue.cuh"

namespace sparsetrain {

// A bias, and then a GELU of common/gelu.cuh.
template <class T, class Function>
struct Activated : Biased<T> {
  using Biased<T>::Biased;

  template <bool kTransposed, int kColumns>
  __device__ void piece(float* d, int m, int n) const {
    Biased<T>::template piece<kTransposed, kColumns>(d, m, n);
    const Function function{};
#pragma unroll
    for (int e = 0; e < kColumns / 2; ++e) d[e] = function(d[e]).value;
  }
};

}  // namespace sparsetrain
