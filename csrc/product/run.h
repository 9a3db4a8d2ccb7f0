// A product from tensors: check, choose, describe, launch.
#pragma once

#include "../common/host.h"
#include "arguments.h"

namespace sparsetrain {

// What is wanted of a product besides the operands; see Epilogue. Scales: of 8-bit values, [M, 1]
// and [1, N], one for all, or [ceil(M/128), ceil(K/128)] and [ceil(K0/128), ceil(N/128)].
struct Wanted {
  std::optional<Tensor> scales, scales_b;
  std::optional<Tensor> bias;
  std::optional<Tensor> residual;
  Activation activation = Activation::kNone;
  bool transposed = false;
  std::optional<Tensor> factors_out;  // [1, N], of a transposed result in 8 bits
};

// values [M, K/2], meta: packed; b [K0, N] of any strides, K0 <= K; all of them checked.
// out: contiguous, [M, N] or [N, M], of the type of values or float32; of 8-bit values bfloat16,
// float16 or float32.
void run_product(const Tensor& values, const Tensor& meta, const Tensor& b, const Wanted& wanted,
                 const Tensor& out);

// These raise what a product does not take: they name the argument and what to pass.
void check_product(const Tensor& values, const Tensor& meta, const Tensor& b);
void check_operands(const Tensor& values, const Tensor& meta, const Tensor& b);  // of any type
void check_bias(const std::optional<Tensor>& bias, const Tensor& b, int64_t length);
void check_out(const char* name, const Tensor& out, const Tensor& b, int64_t rows, int64_t columns);

}  // namespace sparsetrain
