#include "select24.h"

#include "common/pack.cuh"
#include "common/rules.cuh"
#include "common/staging.cuh"

namespace sparsetrain {
namespace {

using Mask = Lines<kWide, kRows, kWide / 8, 16>;

template <class T, bool kVector, class Rule>
__global__ void __launch_bounds__(kWide, 2) select24_kernel(Matrix x, Rule rule, uint8_t* mask) {
  extern __shared__ char shared[];
  Mask& staged = *reinterpret_cast<Mask*>(shared);
  Place<kWide> at(x);
  int columns = at.columns - 8 * at.q;
  uint32_t whole = columns >= 8 ? 0xffffffffu : 0x0f0f0f0fu;
#pragma unroll
  for (int s = 0; s < 2; ++s) {
    Strip<T> strip;
    load_strip<kVector>(x, at.row() + 4 * s, at.column(), at.left - 4 * s, strip);
    uint32_t bytes = spread(rule.rows(strip, 0)) & whole;
#pragma unroll
    for (int r = 0; r < 4; ++r)
      staged.template at<uint8_t>(8 * at.p + 4 * s + r, at.q) = bytes >> 8 * r;
  }
  __syncthreads();
  int64_t stride = (x.columns + 7) / 8;
  staged.template store<uint8_t>(
      reinterpret_cast<char*>(mask) + at.first_row * stride + at.first_column / 8, at.rows, stride,
      (at.columns + 7) / 8);
}

}  // namespace

Tensor select24(const Tensor& x, const std::string& rule) {
  check_groups("x", x);
  DeviceGuard guard(x.get_device_index());
  Tensor mask = torch::stable::new_empty(x, {x.size(0), ceil_div(x.size(1), 8)}, ScalarType::Byte);
  unsigned blocks = tiles_of(x);
  if (blocks == 0) return mask;
  with_rule(rule, [&](auto chosen) {
    with_type(x.scalar_type(), [&](auto type) {
      using T = typename decltype(type)::type;
      using Rule = decltype(chosen);
      launch(rows_are_vectors(x) ? select24_kernel<T, true, Rule> : select24_kernel<T, false, Rule>,
             blocks, kWide, sizeof(Mask), x, matrix_of(x), chosen,
             static_cast<uint8_t*>(mask.mutable_data_ptr()));
    });
  });
  return mask;
}

}  // namespace sparsetrain
