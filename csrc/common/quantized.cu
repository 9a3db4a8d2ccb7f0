#include "quantized.h"

#include "../product/reference.h"
#include "quantize_rows.cuh"

namespace sparsetrain {
namespace {

// A block of threads takes kBlock x kBlock.
template <class In, class Q, bool kVector>
__global__ void __launch_bounds__(256) quantize_blocks_kernel(Matrix x, To to, int across) {
  constexpr int kAcross = kBlock / 8, kHeld = kBlock * kAcross / 256;
  int64_t row0 = blockIdx.x / across * int64_t{kBlock};
  int64_t column0 = blockIdx.x % across * int64_t{kBlock};
  using Held = Held<In, Q, kVector, kHeld>;
  Held held(x);
  auto each = [&](auto f) {
#pragma unroll
    for (int v = 0; v < kHeld; ++v) {
      int at = v * 256 + threadIdx.x;
      int64_t row = row0 + at / kAcross, column = column0 + at % kAcross * 8;
      if (row < x.rows && column < x.columns) f(v, row, column);
    }
  };
  uint32_t largest = 0;
  each([&](int v, int64_t row, int64_t column) { held.load(v, row, column); });
  each([&](int v, int64_t, int64_t) { largest = held.largest(v, largest); });
  largest = largest_of_team<256, 256>(Held::as_float(largest));
  float inverse = inverse_of<Q>(largest, to.power_of_two);
  if (threadIdx.x == 0) to.scales[blockIdx.x] = __frcp_rn(inverse);
  each([&](int v, int64_t row, int64_t column) { held.store(v, row, column, inverse, to.q); });
}

template <class In, class Q, bool kVector>
void launch_blocks(const Tensor& x, const To& to) {
  int64_t across = ceil_div(x.size(1), kBlock);
  auto blocks = static_cast<unsigned>(across * ceil_div(x.size(0), kBlock));
  quantize_blocks_kernel<In, Q, kVector>
      <<<blocks, 256, 0, current_stream(x)>>>(matrix_of(x), to, static_cast<int>(across));
}

// A lane of an atom of 8-bit values (reference/pack24.py) for each thread: two 32-bit words, each
// from four bytes of an atom of 16-bit values.
__global__ void __launch_bounds__(128)
    narrow_meta_kernel(const uint8_t* meta, uint8_t* out, int64_t atoms_k, int64_t atoms_m) {
  int lane = threadIdx.x, m = blockIdx.x, k = blockIdx.y;
  int row = lane % 32 / 4 * 8 + (lane & 1) * 2 + lane / 32 * 128, half = (lane >> 1 & 1) * 4;
  uint32_t words[2] = {0, 0};
#pragma unroll
  for (int w = 0; w < 2; ++w) {
    if (2 * k + w >= atoms_k) break;
    const uint8_t* atom = meta + ((2 * k + w) * atoms_m + m) * 512;
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      uint32_t pair = *reinterpret_cast<const uint16_t*>(atom + row + half + b * 64);
      words[w] |= pair << 16 * b;
    }
  }
  *reinterpret_cast<uint2*>(out + (k * atoms_m + m) * 1024 + lane * 8) =
      make_uint2(words[0], words[1]);
}

}  // namespace

void check_quantizing(const Quantizing& how) {
  STD_TORCH_CHECK(how.dtype == ScalarType::Float8_e4m3fn || how.dtype == ScalarType::Char,
                  "dtype: ", torch::headeronly::toString(how.dtype),
                  " is not supported; use float8_e4m3fn or int8");
  STD_TORCH_CHECK(how.scaling == "row" || how.scaling == "block" || how.scaling == "tensor",
                  "scaling: ", how.scaling, " is unknown; use one of row, block, tensor");
}

std::tuple<Tensor, Tensor> quantize_matrix(const Tensor& x_in, const Quantizing& how) {
  if (how.scaling == "tensor" || !is_float(x_in.scalar_type())) {
    auto stack = call_reference("sparsetrain::_quantize_reference", x_in, how.dtype, how.scaling,
                                how.power_of_two);
    return {torch::stable::detail::to<Tensor>(stack[0]),
            torch::stable::detail::to<Tensor>(stack[1])};
  }
  DeviceGuard guard(x_in.get_device_index());
  Tensor x = x_in.stride(1) == 1 ? x_in : torch::stable::contiguous(x_in);
  bool by_row = how.scaling == "row";
  int64_t rows = x.size(0), columns = x.size(1);
  Tensor q = torch::stable::new_empty(x, {rows, columns}, how.dtype);
  Tensor scales = torch::stable::new_empty(
      x, {by_row ? rows : ceil_div(rows, kBlock), by_row ? 1 : ceil_div(columns, kBlock)},
      ScalarType::Float);
  if (scales.numel() == 0) return {q, scales};
  To to{q.mutable_data_ptr(), static_cast<float*>(scales.mutable_data_ptr()), how.power_of_two};
  with_type(x.scalar_type(), [&](auto type) {
    using In = typename decltype(type)::type;
    auto of = [&](auto eight, auto vector) {
      using Q = decltype(eight);
      constexpr bool kVector = decltype(vector)::value;
      by_row ? launch_rows<In, Q, kVector>(x, to, AsItIs{}) : launch_blocks<In, Q, kVector>(x, to);
    };
    auto into = [&](auto eight) {
      rows_are_vectors(x) ? of(eight, std::true_type{}) : of(eight, std::false_type{});
    };
    how.dtype == ScalarType::Char ? into(int8_t{}) : into(__nv_fp8_e4m3{});
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {q, scales};
}

Tensor narrow_meta(const Tensor& meta_in, int64_t rows, int64_t columns) {
  int64_t atoms_m = ceil_div(rows, 64), atoms_k = ceil_div(columns, 128);
  Tensor out = torch::stable::new_empty(meta_in, {atoms_k, atoms_m, 1024});
  if (out.numel() == 0) return out;
  DeviceGuard guard(meta_in.get_device_index());
  Tensor meta = aligned(meta_in);
  dim3 grid(static_cast<unsigned>(atoms_m), static_cast<unsigned>(atoms_k));
  narrow_meta_kernel<<<grid, 128, 0, current_stream(meta)>>>(
      static_cast<const uint8_t*>(meta.const_data_ptr()),
      static_cast<uint8_t*>(out.mutable_data_ptr()), meta.size(0), atoms_m);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

std::tuple<Tensor, Tensor, Tensor> narrow(const Tensor& values, const Tensor& meta, int64_t rows,
                                          int64_t columns, const Quantizing& how) {
  auto [q, scales] = quantize_matrix(values, how);
  return {q, narrow_meta(meta, rows, columns), scales};
}

}  // namespace sparsetrain
