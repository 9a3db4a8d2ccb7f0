// From sums of 8-bit values to the result: scale of the row of A, scale of the column of B, bias.
//
// Before its steps a tile begins to copy its scales to shared memory, and touches its bias, which
// comes through the L1 cache, so that its end does not wait for memory.
#pragma once

#include <type_traits>

#include "epilogue.cuh"

namespace sparsetrain {

// The scales of a product of 8-bit values, and its bias, T or float32. Sum: what they are summed
// in.
template <class Sum, class T>
class Scaled {
 public:
  static constexpr bool kScaled = true;

  __device__ Scaled(const Arguments& arguments, uint32_t terms) : of_(arguments), rows_at_(terms) {}

  // sum has the bits of a Sum. The last two operations round once.
  __device__ static float scaled(float sum, float scale_a, float scale_b, float bias) {
    if constexpr (std::is_integral_v<Sum>) sum = __int2float_rn(__float_as_int(sum));
    return __fmaf_rn(__fmul_rn(sum, scale_a), scale_b, bias);
  }

  // For rows from m on and columns from n on; outside, the last one's.
  template <int kRows, int kColumns>
  __device__ void begin(int m, int n) {
    static_assert(kRows % 32 == 0 && kColumns % 32 == 0);
    m_ = m, n_ = n, columns_at_ = rows_at_ + kRows * 4;
    const Place place;
#pragma unroll
    for (int first = 0; first < kRows + kColumns; first += 128) {
      int i = first + place.thread;
      int row = min(m + i, of_.M - 1), column = min(n + i - kRows, of_.N - 1);
      const float* from = i < kRows ? of_.scales.a + row * of_.scales.step_a
                                    : of_.scales.b + column * of_.scales.step_b;
      if (i < kRows + kColumns) ptx::copy_word(rows_at_ + i * 4, from);
    }
    if (of_.epilogue.bias != nullptr) touch_bias<kRows, kColumns>(m, n);
  }

  // Until what begin began is there for every thread.
  __device__ void arrive() const {
    ptx::wait_words();
    ptx::sync_group();
  }

  // 64 rows from m on.
  template <bool kTransposed, int kValues>
  __device__ void rows(float (&)[kValues], int m) {
    const Place place;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      scales_a_[i] = ptx::word_at(rows_at_ + (m - m_ + place.row(i)) * 4);
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
  // The scales of the two columns that the lane has of eight from n on.
  __device__ float2 of_columns(int n) const {
    return ptx::words_at(columns_at_ + (n - n_) * 4 + Place().lane % 4 * 8);
  }

  const Arguments& of_;
  uint32_t rows_at_, columns_at_;  // shared memory
  int m_, n_;                      // where the tile starts
  float scales_a_[2], bias_[2];    // of the thread's rows

 private:
  // Reads a value of every 32 bytes.
  template <int kRows, int kColumns>
  __device__ void touch_bias(int m, int n) const {
    constexpr int kPerTouch = 8;
    static_assert(kRows <= 32 * kPerTouch && kColumns <= 32 * kPerTouch);
    const Place place;
    bool transposed = of_.epilogue.transposed;
    int at = place.lane * kPerTouch, inner = (transposed ? m : n) + at;
    bool here = at < (transposed ? kRows : kColumns) && inner < of_.epilogue.width;
    int64_t bytes = of_.wide_bias ? 4 : sizeof(T);
    if (place.warp == 0 && here) touch(static_cast<const char*>(of_.epilogue.bias) + inner * bytes);
  }

  __device__ static void touch(const void* address) {
    uint16_t nothing;
    asm volatile("ld.global.nc.u16 %0, [%1];" : "=h"(nothing) : "l"(address));
  }

  // A bias is read without a branch, that of two neighbouring columns at a time, so that reads go
  // out together. Behind the last pair its bias is read again.
  template <bool kTransposed, int kColumns, class Bias>
  __device__ void columns(float* d, int n, Bias bias) const {
    const Place place;
    int last = (of_.N - 1) / 2;
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
      float2 scale = of_columns(n + 8 * j);
      float2 term = bias(min(n / 2 + 4 * j + place.lane % 4, last));
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
