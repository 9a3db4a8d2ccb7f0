// The ops in plain PyTorch, for what has no kernel: float32.
#pragma once

#include <array>

#include "../common/host.h"

namespace sparsetrain {

inline bool has_kernel(const Tensor& values) { return values.scalar_type() != ScalarType::Float; }

// Calls an op through PyTorch's dispatcher; what it returns lies at the start of the array.
template <class... Arguments>
std::array<StableIValue, sizeof...(Arguments)> call_reference(const char* op,
                                                              const Arguments&... arguments) {
  std::array<StableIValue, sizeof...(Arguments)> stack{torch::stable::detail::from(arguments)...};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(op, "", stack.data(), TORCH_ABI_VERSION));
  return stack;
}

}  // namespace sparsetrain
