// What the host side of every op needs: the tensor, its checks, its device and stream.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <string>
#include <tuple>

namespace sparsetrain {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using torch::stable::accelerator::DeviceGuard;

// The stream that PyTorch launches on now, on the device of x.
inline cudaStream_t current_stream(const Tensor& x) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// Tokens of the transposed side are padded with zeros to a multiple of this.
constexpr int64_t kPadded = 128;

__host__ __device__ constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
__host__ __device__ constexpr int64_t padded_rows(int64_t rows) {
  return ceil_div(rows, kPadded) * kPadded;
}

inline bool is_float(ScalarType type) {
  return type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Half;
}

inline std::string shape_of(const Tensor& x) {
  std::string text = "(";
  for (int64_t i = 0; i < x.dim(); ++i) text += (i ? ", " : "") + std::to_string(x.size(i));
  return text + ")";
}

inline void check_matrix(const char* name, const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 2, name, ": expected 2 dimensions, got shape ", shape_of(x),
                  "; flatten the leading ones");
  STD_TORCH_CHECK(is_float(x.scalar_type()), name, ": ",
                  torch::headeronly::toString(x.scalar_type()),
                  " has no CUDA kernel; use float32, bfloat16 or float16, or a CPU tensor");
}

inline void check_groups(const char* name, const Tensor& x) {
  check_matrix(name, x);
  STD_TORCH_CHECK(x.size(1) % 4 == 0, name, ": ", x.size(1),
                  " columns are not a multiple of 4; pad the columns with zeros");
}

// The tensor, or a copy if it is not contiguous from an address of whole 16 bytes.
inline Tensor aligned(const Tensor& x) {
  Tensor out = torch::stable::contiguous(x);
  bool is = reinterpret_cast<uintptr_t>(out.const_data_ptr()) % 16 == 0;
  return is ? out : torch::stable::clone(out);
}

// uint8 [rows, bytes] on the device of x, made contiguous and aligned.
inline Tensor check_bytes(const char* name, const Tensor& bytes, const Tensor& x, int64_t rows,
                          int64_t row_bytes) {
  STD_TORCH_CHECK(bytes.scalar_type() == ScalarType::Byte, name, ": ",
                  torch::headeronly::toString(bytes.scalar_type()), " should be uint8");
  STD_TORCH_CHECK(bytes.dim() == 2 && bytes.size(0) == rows && bytes.size(1) == row_bytes, name,
                  ": shape ", shape_of(bytes), " should be (", rows, ", ", row_bytes,
                  "), one bit per element; make it with select24");
  STD_TORCH_CHECK(bytes.get_device_index() == x.get_device_index(), name,
                  ": on another device than the matrix; move it");
  return aligned(bytes);
}

// The packed form of a [rows, columns] matrix, in the type and on the device of x. meta is padded
// to atoms of 64 x 64 values, 512 bytes each; of 8-bit values 64 x 128, 1024 bytes.
inline void check_packed(const char* values_name, const Tensor& values, const char* meta_name,
                         const Tensor& meta, const Tensor& x, int64_t rows, int64_t columns) {
  STD_TORCH_CHECK(values.scalar_type() == x.scalar_type(), values_name, ": ",
                  torch::headeronly::toString(values.scalar_type()), " should be ",
                  torch::headeronly::toString(x.scalar_type()));
  STD_TORCH_CHECK(values.dim() == 2 && values.size(0) == rows && values.size(1) == columns / 2,
                  values_name, ": shape ", shape_of(values), " should be (", rows, ", ",
                  columns / 2, "); pass what packed the matrix");
  int64_t atom = values.element_size() == 1 ? 128 : 64;
  STD_TORCH_CHECK(meta.scalar_type() == ScalarType::Byte && meta.dim() == 3 &&
                      meta.size(0) == ceil_div(columns, atom) &&
                      meta.size(1) == ceil_div(rows, 64) && meta.size(2) == 8 * atom,
                  meta_name, ": ", torch::headeronly::toString(meta.scalar_type()), " of shape ",
                  shape_of(meta), " should be Byte of shape (", ceil_div(columns, atom), ", ",
                  ceil_div(rows, 64), ", ", 8 * atom, "); pass what packed the matrix");
  STD_TORCH_CHECK(values.get_device_index() == x.get_device_index() &&
                      meta.get_device_index() == x.get_device_index(),
                  values_name, ", ", meta_name, ": on another device than the matrix; move them");
}

// One element of a type on the device of x.
inline void check_scalar(const char* name, const Tensor& scalar, ScalarType type, const Tensor& x) {
  STD_TORCH_CHECK(scalar.scalar_type() == type && scalar.numel() == 1, name, ": ",
                  torch::headeronly::toString(scalar.scalar_type()), " of ", scalar.numel(),
                  " elements should be one element of ", torch::headeronly::toString(type));
  STD_TORCH_CHECK(scalar.get_device_index() == x.get_device_index(), name,
                  ": on another device than the matrix; move it");
}

template <class T>
struct Type {
  using type = T;
};

// Calls f with the C++ type of a matrix.
template <class F>
void with_type(ScalarType type, F f) {
  if (type == ScalarType::BFloat16) return f(Type<__nv_bfloat16>{});
  if (type == ScalarType::Half) return f(Type<__half>{});
  f(Type<float>{});
}

// Calls f with the C++ types of a matrix and of its packed values: the same, or 16 bits of float32.
template <class F>
void with_types(ScalarType in, ScalarType out, F f) {
  if (in == ScalarType::Float && is_float(out)) {
    return with_type(out, [&](auto out_type) { f(Type<float>{}, out_type); });
  }
  STD_TORCH_CHECK(out == in, "dtype: ", torch::headeronly::toString(out), " from ",
                  torch::headeronly::toString(in),
                  " has no CUDA kernel; leave it out, or cast x first");
  if (in == ScalarType::BFloat16) return f(Type<__nv_bfloat16>{}, Type<__nv_bfloat16>{});
  f(Type<__half>{}, Type<__half>{});
}

}  // namespace sparsetrain
