#include "mvue24.h"

#include "common/philox.cuh"
#include "common/staging.cuh"

namespace sparsetrain {
namespace {

// Two values kept of a group and where they were: i0 | i1 << 2.
struct Sample {
  float first, second;
  uint32_t meta;
};

// A group of at most one value that is not zero, or one that does not add up to a finite number.
__device__ inline Sample sample_simply(const float (&x)[4], float total) {
  if (!(total <= 3.4028235e38f)) return {total, total, 4};  // it should be noticed
  float only = 0.0f + x[0] + x[1] + x[2] + x[3];            // +0 of four -0
  if (x[0] != 0.0f || total == 0.0f) return {only, 0.0f, 4};
  if (x[3] != 0.0f) return {0.0f, only, 2 + 12};
  return {only, 0.0f, x[1] != 0.0f ? 1u + 8u : 2u + 12u};
}

// Systematic sampling with one uniform number, u in [0, 1). Lay the weights end to end; the two
// that cover the points u H and u H + H are kept, H half of their sum. Every step is rounded and
// none is fused, as in sparsetrain/reference/mvue24.py.
__device__ inline Sample sample(const float (&x)[4], float u) {
  float a0 = fabsf(x[0]), a1 = fabsf(x[1]), a2 = fabsf(x[2]), a3 = fabsf(x[3]);
  float head = __fadd_rn(a0, a1), tail = __fadd_rn(a2, a3), total = __fadd_rn(head, tail);
  // The weight of a value is at most that of the other three.
  float end0 = fminf(a0, __fadd_rn(a1, tail));
  float end1 = __fadd_rn(end0, fminf(a1, __fadd_rn(a0, tail)));
  float end2 = __fadd_rn(end1, fminf(a2, __fadd_rn(head, a3)));
  float end3 = __fadd_rn(end2, fminf(a3, __fadd_rn(head, a2)));
  // Rare. Of what is not finite, 0 times the total is NaN.
  if (!(__fmaf_rn(total, 0.0f, end3) > 0.0f)) return sample_simply(x, total);
  float half = __fmul_rn(end3, 0.5f);
  float point0 = __fmul_rn(u, half), point1 = __fadd_rn(point0, half);

  // How many ends lie before a point; they ascend, so each implies the one before. An end that
  // reaches the last one has only zeros behind it: nothing to keep there. Rounding may put both
  // points into one value; the next one is kept with it then.
  bool first1 = end0 <= point0, first2 = end1 <= point0;
  bool second2 = first1 | ((end1 < end3) & (end1 <= point1));
  bool second3 = first2 | ((end2 < end3) & (end2 <= point1));
  float first = first1 ? x[1] : x[0], second = second2 ? x[2] : x[1];
  first = first2 ? x[2] : first;
  second = second3 ? x[3] : second;
  uint32_t meta = (first1 ? 1u : 0u) | (second2 ? 8u : 4u);
  meta = (first2 ? 2u : meta & 3u) | (second3 ? 12u : meta & 12u);
  auto kept = [half](float x) {
    uint32_t sign = __float_as_uint(x) & 0x80000000u;
    return __uint_as_float(__float_as_uint(fmaxf(fabsf(x), half)) | sign);
  };
  return {kept(first), second == 0.0f ? 0.0f : kept(second), meta};
}

template <class T>
struct Staged : StagedValues<T, kWide> {
  Atoms<kWide> meta_t;
};

template <class T, bool kVector>
__global__ void __launch_bounds__(kWide, sizeof(T) == 2 && kVector ? 4
                                         : kVector                 ? 2
                                                                   : 1)
    mvue24_kernel(Matrix x, const int64_t* seed, void* values_t, uint8_t* meta_t) {
  extern __shared__ char shared[];
  Staged<T>& staged = *reinterpret_cast<Staged<T>*>(shared);
  Place<kWide> at(x);
  uint2 key = key_of(seed);

  Strip<T> strip[2];
  uint32_t bytes[2] = {0, 0};  // metadata of four columns each
#pragma unroll
  for (int s = 0; s < 2; ++s)
    load_strip<kVector>(x, at.row() + 4 * s, at.column(), at.left - 4 * s, strip[s]);
#pragma unroll
  for (int s = 0; s < 2; ++s) {
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
      // One draw for the four columns of a tile.
      uint4 words = philox4x32(make_uint4(static_cast<uint32_t>(at.column() / 4 + tile),
                                          static_cast<uint32_t>(at.row() / 4 + s), 0, 0),
                               key);
      uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        int column = 4 * tile + c;
        float value[4];
#pragma unroll
        for (int r = 0; r < 4; ++r) value[r] = value_at(strip[s], r, column);
        Sample kept = sample(value, uniform24(word[c]));
        staged.values_t.template at<Pair<T>>(8 * at.q + column, (2 * at.p + s) * sizeof(Pair<T>)) =
            pair_of(T(), kept.first, kept.second);
        bytes[tile] |= kept.meta << (8 * c + 4 * s);
      }
    }
  }
  int columns = at.columns - 8 * at.q;
#pragma unroll
  for (int c = 0; c < 8; ++c)
    staged.meta_t.at(at.q / 8, at.q, at.p, c) = c < columns ? bytes[c / 4] >> 8 * (c % 4) : 0;
  __syncthreads();
  staged.store_columns(values_t, x, at);
  staged.meta_t.store_columns(meta_t, x, at);
}

}  // namespace

std::tuple<Tensor, Tensor> mvue24(const Tensor& x, const Tensor& seed) {
  check_groups("x", x);
  check_scalar("seed", seed, ScalarType::Long, x);
  DeviceGuard guard(x.get_device_index());
  Tensor values_t = new_values_t(x, x.scalar_type()), meta_t = new_meta_t(x);
  unsigned blocks = tiles_of(x);
  if (blocks == 0) return {values_t, meta_t};
  with_type(x.scalar_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    launch(rows_are_vectors(x) ? mvue24_kernel<T, true> : mvue24_kernel<T, false>, blocks, kWide,
           sizeof(Staged<T>), x, matrix_of(x), static_cast<const int64_t*>(seed.const_data_ptr()),
           values_t.mutable_data_ptr(), static_cast<uint8_t*>(meta_t.mutable_data_ptr()));
  });
  return {values_t, meta_t};
}

}  // namespace sparsetrain
