// From sums of 8-bit values to the result: scale of the row of A, scale of the column of B, bias.
//
// Scales and the bias come through the L1 cache. A tile touches its own before its steps, so that
// its end does not wait for memory.
#pragma once

#include <type_traits>

#include "epilogue.cuh"

namespace sparsetrain {

__device__ inline float2 widened(__nv_bfloat162 x) { return __bfloat1622float2(x); }
__device__ inline float2 widened(__half2 x) { return __half22float2(x); }

// The scales of a product of 8-bit values, and its bias, T or float32. Sum: what they are summed
// in.
template <class Sum, class T>
class Scaled {
 public:
  static constexpr bool kScaled = true;

  __device__ explicit Scaled(const Arguments& arguments) : of_(arguments) {}

  // sum has the bits of a Sum. The last two operations round once.
  __device__ static float scaled(float sum, float scale_a, float scale_b, float bias) {
    if constexpr (std::is_integral_v<Sum>) sum = __int2float_rn(__float_as_int(sum));
    return __fmaf_rn(__fmul_rn(sum, scale_a), scale_b, bias);
  }

  // Reads a value of every 32 bytes of what rows from m on and columns from n on will take.
  template <int kRows, int kColumns>
  __device__ void begin(int m, int n) const {
    constexpr int kPerTouch = 8;
    static_assert(kRows <= 32 * kPerTouch && kColumns <= 32 * kPerTouch);
    const Place place;
    int at = place.lane * kPerTouch;
    int row = m + at, column = n + at;
    bool here_a = at < kRows && row < of_.M, here_b = at < kColumns && column < of_.N;
    if (place.warp == 0 && here_a) touch(of_.scales.a + row * of_.scales.step_a);
    if (place.warp == 1 && here_b) touch(of_.scales.b + column * of_.scales.step_b);
    if (place.warp == 2 && of_.epilogue.bias != nullptr) {
      int inner = of_.epilogue.transposed ? row : column;
      int64_t bytes = of_.wide_bias ? 4 : sizeof(T);
      if (of_.epilogue.transposed ? here_a : here_b) {
        touch(static_cast<const char*>(of_.epilogue.bias) + inner * bytes);
      }
    }
  }

  // 64 rows from m on.
  template <bool kTransposed, int kValues>
  __device__ void rows(float (&)[kValues], int m) {
    const Place place;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      scales_a_[i] = scale_a(m + place.row(i));
      bias_[i] = kTransposed ? bias(m + place.row(i)) : 0.0f;
    }
  }

  template <bool kTransposed, int kColumns>
  __device__ void piece(float* d, int, int n) const {
    using Two = typename TwoOf<T>::type;
    const void* bias = of_.epilogue.bias;
    auto none = [](int) { return float2{}; };
    auto wide = [&](int pair) { return __ldg(static_cast<const float2*>(bias) + pair); };
    auto narrow = [&](int pair) { return widened(__ldg(static_cast<const Two*>(bias) + pair)); };
    if (kTransposed || bias == nullptr) {
      columns<kTransposed, kColumns>(d, n, none);
    } else if (of_.wide_bias) {
      columns<kTransposed, kColumns>(d, n, wide);
    } else {
      columns<kTransposed, kColumns>(d, n, narrow);
    }
  }

  // Outside, that of the last row or column.
  __device__ float scale_a(int row) const {
    return __ldg(of_.scales.a + min(row, of_.M - 1) * of_.scales.step_a);
  }
  __device__ float scale_b(int column) const {
    return __ldg(of_.scales.b + min(column, of_.N - 1) * of_.scales.step_b);
  }
  __device__ float bias(int at) const {
    if (of_.epilogue.bias == nullptr || at >= of_.epilogue.width) return 0.0f;
    if (of_.wide_bias) return __ldg(static_cast<const float*>(of_.epilogue.bias) + at);
    return static_cast<float>(static_cast<const T*>(of_.epilogue.bias)[at]);
  }

 protected:
  const Arguments& of_;
  float scales_a_[2], bias_[2];  // of the thread's rows

 private:
  __device__ static void touch(const void* address) {
    uint16_t nothing;
    asm volatile("ld.global.nc.u16 %0, [%1];" : "=h"(nothing) : "l"(address));
  }

  // Loads without a branch, two neighbouring columns at a time: they go out together. Behind the
  // last pair it is read again.
  template <bool kTransposed, int kColumns, class Bias>
  __device__ void columns(float* d, int n, Bias bias) const {
    const Place place;
    const float2* scales = reinterpret_cast<const float2*>(of_.scales.b);
    int last = (of_.N - 1) / 2, last_scale = of_.scales.step_b * last;
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
      int pair = n / 2 + 4 * j + place.lane % 4;
      float2 scale = __ldg(scales + min(pair, last_scale)), term = bias(min(pair, last));
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float* two = d + 4 * j + 2 * i;
        two[0] = scaled(two[0], scales_a_[i], scale.x, kTransposed ? bias_[i] : term.x);
        two[1] = scaled(two[1], scales_a_[i], scale.y, kTransposed ? bias_[i] : term.y);
      }
    }
  }
};

}  // namespace sparsetrain
