// From sums in registers to the result in memory.
//
// A warpgroup works alone, a piece of its sums at a time, so that the others multiply meanwhile.
//   Plain     bias, rounded, 64 x 64 through swizzled shared memory to the copy engine
//   Wide      the same in float32, 64 x 32 at a time; Stored in 8 bits 64 x 64, of the transpose
//   General   any epilogue: float32 through shared memory, then a loop along rows of the result
// Terms say what is multiplied and added: Biased a bias, of 16-bit values; scaled.cuh has the
// other.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "arguments.h"
#include "ptx.cuh"

namespace sparsetrain {

constexpr int kPiece = 64;                        // rows of a piece; columns, in 16 bits
constexpr int kPieceBytes = kPiece * kPiece * 2;  // of any piece
constexpr int kLeastStaging = 18 * 1024;          // of a warpgroup: two pieces, or General's
constexpr int kWideBox = 32;                      // rows and columns that a float32 store takes

// The terms of 8-bit values in shared memory: a number of each row, and two of each column, or one
// of 192, where two would cost a buffer.
template <int kRows, int kColumns>
constexpr int kTermBytes = (kRows + (kColumns == 192 ? 1 : 2) * kColumns) * 4;

// The thread's place in a warpgroup, and in 16 rows x 8 columns of four of its sums. Looked up
// where it is needed: what is derived from it would take registers that the sums need.
struct Place {
  int thread, warp, lane;
  __device__ Place() {
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    thread %= 128;
    warp = thread / 32;
    lane = thread % 32;
  }
  __device__ int row(int i) const { return warp * 16 + 8 * i + lane / 4; }
  __device__ int column(int e) const { return lane % 4 * 2 + e; }
};

__device__ inline float2 widened(__nv_bfloat162 x) { return __bfloat1622float2(x); }
__device__ inline float2 widened(__half2 x) { return __half22float2(x); }

template <class T>
struct TwoOf;
template <>
struct TwoOf<__nv_bfloat16> {
  using type = __nv_bfloat162;
  __device__ static type rounded(float x, float y) { return __floats2bfloat162_rn(x, y); }
};
template <>
struct TwoOf<__half> {
  using type = __half2;
  __device__ static type rounded(float x, float y) { return __floats2half2_rn(x, y); }
};

template <class T>
__device__ uint32_t round_pair(float x, float y) {
  typename TwoOf<T>::type pair = TwoOf<T>::rounded(x, y);
  return *reinterpret_cast<uint32_t*>(&pair);
}

// The terms of a product of 16-bit values: its bias, of the result's 16-bit type.
template <class T>
struct Biased {
  static constexpr bool kScaled = false;
  const Arguments& of;

  __device__ Biased(const Arguments& arguments, uint32_t) : of(arguments) {}

  // Of 64 rows from m on: what is the same along a row.
  template <bool kTransposed, int kValues>
  __device__ void rows(float (&d)[kValues], int m) const {
    const T* bias = static_cast<const T*>(of.epilogue.bias);
    if (!kTransposed || bias == nullptr) return;
    const Place place;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      int row = m + place.row(i);
      float term = row < of.M ? static_cast<float>(bias[row]) : 0.0f;
#pragma unroll
      for (int j = 0; j < kValues; j += 4) {
        d[j + 2 * i] += term;
        d[j + 2 * i + 1] += term;
      }
    }
  }

  // Of a piece of kColumns columns from n on: the rest. Their number is even; behind the last pair
  // its bias is read again.
  template <bool kTransposed, int kColumns>
  __device__ void piece(float* d, int, int n) const {
    const auto* bias = static_cast<const typename TwoOf<T>::type*>(of.epilogue.bias);
    if (kTransposed || bias == nullptr) return;
    const Place place;
    int last = of.N / 2 - 1;
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
      float2 term = widened(__ldg(bias + min(n / 2 + 4 * j + place.lane % 4, last)));
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        d[4 * j + 2 * i] += term.x;
        d[4 * j + 2 * i + 1] += term.y;
      }
    }
  }
};

// Out: T, float for Wide, or e4m3, of a transposed result.
template <class T, class Out, class Terms = Biased<T>>
class Stored {
 public:
  // Both are shared memory.
  __device__ Stored(const Arguments& arguments, uint32_t staging, uint32_t terms)
      : arguments_(arguments), terms_(arguments, terms), staging_(staging) {}

  __device__ ~Stored() {
    if (Place().thread == 0) ptx::store_wait_read<0>();  // shared memory ends with the block
  }

  static constexpr bool kBegins = Terms::kScaled;
  // Before the sums of so many rows from m on and columns from n on.
  template <int kRows, int kColumns>
  __device__ void begin(int m, int n) {
    terms_.template begin<kRows, kColumns>(m, n);
  }
  // After them.
  __device__ void arrive() { terms_.arrive(); }

  // 64 rows from m on, columns from n on, of which the warpgroup holds d.
  template <int kBuffers, int kValues>
  __device__ void write(float (&d)[kValues], int m, int n) {
    if constexpr (kNarrow) {
      write_pieces<true, kBuffers>(d, m, n);
    } else if (arguments_.epilogue.transposed) {
      write_pieces<true, kBuffers>(d, m, n);
    } else {
      write_pieces<false, kBuffers>(d, m, n);
    }
  }

 private:
  static constexpr bool kWide = sizeof(Out) == 4, kNarrow = sizeof(Out) == 1;
  static constexpr int kColumns = kWide ? kWideBox : kPiece;  // of a piece

  template <bool kTransposed, int kBuffers, int kValues>
  __device__ void write_pieces(float (&d)[kValues], int m, int n) {
    static_assert(kBuffers > 1);
    terms_.template rows<kTransposed>(d, m);
#pragma unroll
    for (int c = 0; c < 2 * kValues / kColumns; ++c) {
      int column = n + c * kColumns;
      if (column >= arguments_.N) break;
      float* piece = d + c * kColumns / 2;
      terms_.template piece<kTransposed, kColumns>(piece, m, column);
      uint32_t buffer = staging_ + turn_ * kPieceBytes;
      turn_ = (turn_ + 1) % kBuffers;
      stage<kTransposed>(piece, buffer);
      ptx::fence_async();
      // The barrier tells everyone that the next buffer is free.
      if (Place().thread == 0) ptx::store_wait_read<kBuffers - 2>();
      ptx::sync_group();
      if (Place().thread == 0) {
        store<kTransposed>(buffer, m, column);
        ptx::store_commit();
      }
    }
  }

  template <bool kTransposed>
  __device__ void store(uint32_t buffer, int m, int column) const {
    if constexpr (kWide) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        int row = m + half * kWideBox;
        ptx::store_2d(arguments_.d, buffer + half * kPieceBytes / 2, kTransposed ? row : column,
                      kTransposed ? column : row);
      }
    } else {
      ptx::store_2d(arguments_.d, buffer, kTransposed ? m : column, kTransposed ? column : m);
    }
  }

  // Rows of the result, 128 bytes each, 16-byte words at their place xor the row (128B swizzle).
  template <bool kTransposed>
  __device__ void stage(const float* piece, uint32_t buffer) {
    if constexpr (kWide) {
      stage_floats<kTransposed>(piece, buffer);
    } else if constexpr (kNarrow) {
      stage_bytes(piece, buffer);
    } else {
      stage_pairs<kTransposed>(piece, buffer);
    }
  }

  // Two boxes, of the piece's upper and lower rows.
  template <bool kTransposed>
  __device__ void stage_floats(const float* piece, uint32_t buffer) {
    const Place place;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      int row = place.row(i);
#pragma unroll
      for (int j = 0; j < kColumns / 8; ++j) {
        const float* v = piece + 4 * j + 2 * i;
        int column = 8 * j + place.column(0);
        if constexpr (kTransposed) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            int word = row % kWideBox / 4 ^ (column + e) % 8;
            uint32_t address = buffer + row / kWideBox * (kPieceBytes / 2) + (column + e) * 128 +
                               word * 16 + row % 4 * 4;
            asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(v[e]) : "memory");
          }
        } else {
          uint32_t address = buffer + row * 128 + (column / 4 ^ row % 8) * 16 + column % 4 * 4;
          asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(v[0]), "f"(v[1])
                       : "memory");
        }
      }
    }
  }

  template <bool kTransposed>
  __device__ void stage_pairs(const float* piece, uint32_t buffer) {
    // Four matrices of 8 x 8: rows 0-7 and 8-15 of the warp's 16, then the next eight columns.
    const Place place;
    int matrix = place.lane / 8, line = place.lane % 8;
#pragma unroll
    for (int j = 0; j < kPiece / 8; j += 2) {
      const float* v = piece + 4 * j;
      uint32_t pairs[4] = {round_pair<T>(v[0], v[1]), round_pair<T>(v[2], v[3]),
                           round_pair<T>(v[4], v[5]), round_pair<T>(v[6], v[7])};
      int rows = place.warp * 2 + matrix % 2, columns = j + matrix / 2;
      int outer = kTransposed ? columns : rows, inner = kTransposed ? rows : columns;
      uint32_t address = buffer + (outer * 8 + line) * 128 + (inner ^ line) * 16;
      ptx::store_matrices<kTransposed>(address, pairs);
    }
  }

  // Rows of the result, 64 bytes each, 16-byte words at their place xor half the row (64B swizzle).
  // A thread has two columns of rows r and r + 8 of its warp's 16, and stmatrix takes 16 bits for
  // one value: two rows beside each other, that other lanes have.
  __device__ void stage_bytes(const float* piece, uint32_t buffer) {
    const Place place;
    int pair = place.lane / 4, from = pair % 4 * 8 + place.lane % 4;
    uint32_t selector = pair < 4 ? 0x5140 : 0x7362;
#pragma unroll
    for (int j = 0; j < kPiece / 8; j += 4) {
      uint32_t pairs[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        uint32_t own = __float_as_uint(piece[4 * (j + i)]);  // of four sums, see ScaledGelu
        uint32_t even = __shfl_sync(0xffffffff, own, from);
        uint32_t odd = __shfl_sync(0xffffffff, own, from + 4);
        pairs[i] = __byte_perm(even, odd, selector);
      }
      int row = j * 8 + place.lane;  // of the result, which this lane gives the address of
      uint32_t address = buffer + row * 64 + (place.warp ^ row / 2 % 4) * 16;
      ptx::store_matrices<true>(address, pairs);
    }
  }

  const Arguments& arguments_;
  Terms terms_;
  uint32_t staging_;
  int turn_ = 0;
};

template <class T>
using Plain = Stored<T, T>;
template <class T>
using Wide = Stored<T, float>;

// Of terms with scales there is no activation and no residual.
template <class T, class Terms = Biased<T>>
class General {
 public:
  __device__ General(const Arguments& arguments, uint32_t staging, uint32_t)
      : arguments_(arguments), staging_(staging) {}
  static constexpr bool kBegins = false;

  template <int, int kValues>
  __device__ void write(float (&d)[kValues], int m, int n) {
    if (arguments_.epilogue.transposed) {
      write_pieces<true>(d, m, n);
    } else {
      write_pieces<false>(d, m, n);
    }
  }

 private:
  // Floats from one row of the result to the next: no bank conflicts, written or read.
  template <bool kTransposed>
  static constexpr int kPitch = kTransposed ? kPiece + 4 : kPiece + 8;
  static_assert(kPiece * kPitch<false> * 4 <= kLeastStaging);

  template <bool kTransposed, int kValues>
  __device__ void write_pieces(float (&d)[kValues], int m, int n) {
#pragma unroll
    for (int c = 0; c < 2 * kValues / kPiece; ++c) {
      int column = n + c * kPiece;
      ptx::sync_group();
      stage<kTransposed>(d + c * kPiece / 2);
      ptx::sync_group();
      if (column < arguments_.N) {
        int outer = kTransposed ? column : m, inner = kTransposed ? m : column;
        if constexpr (Terms::kScaled) {
          finish_scaled<kTransposed>(outer, inner);
        } else {
          finish<kTransposed>(outer, inner);
        }
      }
    }
  }

  template <bool kTransposed>
  __device__ void stage(const float* piece) {
    constexpr int kRow = kTransposed ? 1 : kPitch<false>;
    constexpr int kColumn = kTransposed ? kPitch<true> : 1;
    const Place place;
    uint32_t base = staging_ + (place.row(0) * kRow + place.column(0) * kColumn) * 4;
#pragma unroll
    for (int j = 0; j < kPiece / 8; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          asm volatile(
              "st.shared.f32 [%0], %1;" ::"r"(base + (8 * i * kRow + (8 * j + e) * kColumn) * 4),
              "f"(piece[4 * j + 2 * i + e])
              : "memory");
        }
      }
    }
  }

  // A warp takes every fourth row of the result, a lane two neighbours in it.
  template <bool kTransposed>
  __device__ void finish(int outer0, int inner0) {
    const Epilogue& of = arguments_.epilogue;
    const Place place;
    int64_t rows = kTransposed ? arguments_.N : arguments_.M, width = of.width;
    int inner = inner0 + 2 * place.lane;
    bool here[2] = {inner < width, inner + 1 < width};
    float bias[2];
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      bias[e] =
          of.bias && here[e] ? static_cast<float>(static_cast<const T*>(of.bias)[inner + e]) : 0.0f;
    }
#pragma unroll 1
    for (int outer = place.warp; outer < kPiece && outer0 + outer < rows; outer += 4) {
      float value[2];
      asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
                   : "=f"(value[0]), "=f"(value[1])
                   : "r"(staging_ + (outer * kPitch<kTransposed> + 2 * place.lane) * 4)
                   : "memory");
      int64_t row = outer0 + outer;
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        value[e] = activate(value[e] + bias[e]);
        if (of.residual != nullptr && here[e]) {
          value[e] += read(of.residual, row * of.residual_rows + (inner + e) * of.residual_columns);
        }
      }
      write_pair(value, here, row * width + inner);
    }
  }

  // The same with scales.
  template <bool kTransposed>
  __device__ void finish_scaled(int outer0, int inner0) {
    const Place place;
    const Terms terms(arguments_, 0);
    int rows = kTransposed ? arguments_.N : arguments_.M;
    int width = kTransposed ? arguments_.M : arguments_.N;
    int inner = inner0 + 2 * place.lane;
    bool here[2] = {inner < width, inner + 1 < width};
#pragma unroll 1
    for (int outer = place.warp; outer < kPiece && outer0 + outer < rows; outer += 4) {
      float value[2];
      asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
                   : "=f"(value[0]), "=f"(value[1])
                   : "r"(staging_ + (outer * kPitch<kTransposed> + 2 * place.lane) * 4)
                   : "memory");
      int row = outer0 + outer;
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float scale_a = terms.scale_a(kTransposed ? inner + e : row);
        float scale_b = terms.scale_b(kTransposed ? row : inner + e);
        value[e] = Terms::scaled(value[e], scale_a, scale_b, terms.bias(inner + e));
      }
      write_pair(value, here, int64_t{row} * width + inner);
    }
  }

  __device__ float activate(float x) const {
    if (arguments_.epilogue.activation == Activation::kSquaredRelu) {
      return x <= 0.0f ? 0.0f : x * x;  // NaN stays
    }
    if (arguments_.epilogue.activation == Activation::kGelu) {
      return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    }
    return x;
  }

  __device__ float read(const void* from, int64_t at) const {
    if (arguments_.epilogue.wide) return static_cast<const float*>(from)[at];
    return static_cast<float>(static_cast<const T*>(from)[at]);
  }

  __device__ void write_pair(const float (&value)[2], const bool (&here)[2], int64_t at) const {
    const Epilogue& of = arguments_.epilogue;
    bool whole = here[1] && of.pairs;
    if (of.wide) {
      float* out = static_cast<float*>(of.out) + at;
      if (whole) {
        *reinterpret_cast<float2*>(out) = make_float2(value[0], value[1]);
        return;
      }
      if (here[0]) out[0] = value[0];
      if (here[1]) out[1] = value[1];
    } else {
      T* out = static_cast<T*>(of.out) + at;
      if (whole) {
        *reinterpret_cast<uint32_t*>(out) = round_pair<T>(value[0], value[1]);
        return;
      }
      if (here[0]) out[0] = static_cast<T>(value[0]);
      if (here[1]) out[1] = static_cast<T>(value[1]);
    }
  }

  const Arguments& arguments_;
  uint32_t staging_;
};

}  // namespace sparsetrain
