// The tensor cores' sparse product of a warpgroup, m64nNk32: D += A B with a packed 64 x 32 A
// (64 x 16 kept values, metadata in a register) and a dense 32 x N B, both in shared memory, D in
// float32 registers. Of 8-bit values m64nNk64, in as many bytes; int8 has D in int32. PTX ISA 9.0,
// "wgmma.mma_async.sp".
//
// Of a thread's D, value 4 j + 2 i + e is row 16 warp + 8 i + lane / 4, column 8 j + 2 (lane % 4) +
// e.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

namespace sparsetrain {

// What products of T are summed in.
template <class T>
struct Sums {
  using type = float;
};
template <>
struct Sums<int8_t> {
  using type = int32_t;
};

// ---- where an operand lies in shared memory -----------------------------------------------------

enum class Swizzle : uint64_t { k128 = 1, k64 = 2 };

// Strides in bytes between groups of eight rows (step) and, where rows run along N, between columns
// of 64 values (leap).
__device__ inline uint64_t operand(uint32_t address, Swizzle swizzle, uint32_t leap,
                                   uint32_t step) {
  return static_cast<uint64_t>(swizzle) << 62 | static_cast<uint64_t>(step >> 4) << 32 |
         static_cast<uint64_t>(leap >> 4) << 16 | (address & 0x3FFFF) >> 4;
}

// ---- order --------------------------------------------------------------------------------------

__device__ inline void wgmma_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until at most kPending committed groups are under way.
template <int kPending>
__device__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// After a wait. The compiler does not know that products write d until then: this keeps it from
// moving uses of d before the wait.
template <int kValues>
__device__ void wgmma_written(float (&d)[kValues]) {
#pragma unroll
  for (int j = 0; j < kValues; ++j) asm volatile("" : "+f"(d[j])::"memory");
}
template <int kValues>
__device__ void wgmma_written(int32_t (&d)[kValues]) {
#pragma unroll
  for (int j = 0; j < kValues; ++j) asm volatile("" : "+r"(d[j])::"memory");
}

// ---- products -----------------------------------------------------------------------------------
// clang-format off

// The numbers and the constraints of an instruction's registers, ten at a time.
#define ST_0 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9"
#define ST_10(t) ", %" #t "0, %" #t "1, %" #t "2, %" #t "3, %" #t "4, %" #t "5, %" #t "6, %" #t "7, %" #t "8, %" #t "9"
#define ST_32 ST_0 ST_10(1) ST_10(2) ", %30, %31"
#define ST_64 ST_0 ST_10(1) ST_10(2) ST_10(3) ST_10(4) ST_10(5) ", %60, %61, %62, %63"
#define ST_96 ST_0 ST_10(1) ST_10(2) ST_10(3) ST_10(4) ST_10(5) ST_10(6) ST_10(7) ST_10(8) ", %90, %91, %92, %93, %94, %95"
#define ST_128 ST_0 ST_10(1) ST_10(2) ST_10(3) ST_10(4) ST_10(5) ST_10(6) ST_10(7) ST_10(8) ST_10(9) ST_10(10) ST_10(11) ", %120, %121, %122, %123, %124, %125, %126, %127"
#define ST_D8(c, i) c(d[i]), c(d[i + 1]), c(d[i + 2]), c(d[i + 3]), c(d[i + 4]), c(d[i + 5]), c(d[i + 6]), c(d[i + 7])
#define ST_D32(c, i) ST_D8(c, i), ST_D8(c, i + 8), ST_D8(c, i + 16), ST_D8(c, i + 24)
#define ST_D64(c) ST_D32(c, 0), ST_D32(c, 32)
#define ST_D96(c) ST_D64(c), ST_D32(c, 64)
#define ST_D128(c) ST_D96(c), ST_D32(c, 96)

#define ST_WGMMA(N, TYPE, NUMBERS, A, B, META, PAIR, KEEP, ROWS, ...)                              \
  asm volatile("{\n.reg .pred keep;\nsetp.ne.b32 keep, %" #KEEP ", 0;\n"                           \
               "wgmma.mma_async.sp.sync.aligned.m64n" #N "k32.f32." TYPE "." TYPE                  \
               " {" NUMBERS "}, %" #A ", %" #B ", %" #META ", %" #PAIR ", keep, 1, 1, 0, %" #ROWS ";\n}" \
               : __VA_ARGS__                                                                       \
               : "l"(a), "l"(b), "r"(meta), "n"(kPair), "r"(keep), "n"(kRows))

#define ST_PRODUCTS(TYPE, NAME)                                                                    \
  template <int kPair, int kRows>                                                                  \
  __device__ void wgmma(TYPE, float (&d)[32], uint64_t a, uint64_t b, uint32_t meta, int keep) {   \
    ST_WGMMA(64, NAME, ST_32, 32, 33, 34, 35, 36, 37, ST_D32("+f", 0));                            \
  }                                                                                                \
  template <int kPair, int kRows>                                                                  \
  __device__ void wgmma(TYPE, float (&d)[64], uint64_t a, uint64_t b, uint32_t meta, int keep) {   \
    ST_WGMMA(128, NAME, ST_64, 64, 65, 66, 67, 68, 69, ST_D64("+f"));                              \
  }                                                                                                \
  template <int kPair, int kRows>                                                                  \
  __device__ void wgmma(TYPE, float (&d)[96], uint64_t a, uint64_t b, uint32_t meta, int keep) {   \
    ST_WGMMA(192, NAME, ST_96, 96, 97, 98, 99, 100, 101, ST_D96("+f"));                            \
  }                                                                                                \
  template <int kPair, int kRows>                                                                  \
  __device__ void wgmma(TYPE, float (&d)[128], uint64_t a, uint64_t b, uint32_t meta, int keep) {  \
    ST_WGMMA(256, NAME, ST_128, 128, 129, 130, 131, 132, 133, ST_D128("+f"));                      \
  }

// d [N / 2] (+)= A B, begun, not waited for: d and meta stay untouched until wgmma_wait.
//   a, b    operand(…)        keep   0: d is overwritten
//   meta    of 16 rows x 64 columns, a word from each lane; kPair 0 or 1: the columns' half in it
//   kRows   0: the columns of B are contiguous along K; 1: its rows are along N
ST_PRODUCTS(__nv_bfloat16, "bf16")
ST_PRODUCTS(__half, "f16")

// Of 8-bit values columns of B are always contiguous along K, and every lane has metadata: a word
// of a row x 32 columns (reference/pack24.py). Sums of int8 are whole, and wrap.
#define ST_WGMMA8(N, TYPES, SIGNS, NUMBERS, A, B, META, KEEP, ...)                                 \
  asm volatile("{\n.reg .pred keep;\nsetp.ne.b32 keep, %" #KEEP ", 0;\n"                           \
               "wgmma.mma_async.sp.sync.aligned.m64n" #N "k64." TYPES                              \
               " {" NUMBERS "}, %" #A ", %" #B ", %" #META ", 0, keep" SIGNS ";\n}"                \
               : __VA_ARGS__                                                                       \
               : "l"(a), "l"(b), "r"(meta), "r"(keep))

#define ST_PRODUCTS8(TYPE, SUM, C, TYPES, SIGNS)                                                   \
  template <int, int>                                                                              \
  __device__ void wgmma(TYPE, SUM (&d)[64], uint64_t a, uint64_t b, uint32_t meta, int keep) {     \
    ST_WGMMA8(128, TYPES, SIGNS, ST_64, 64, 65, 66, 67, ST_D64(C));                                \
  }                                                                                                \
  template <int, int>                                                                              \
  __device__ void wgmma(TYPE, SUM (&d)[96], uint64_t a, uint64_t b, uint32_t meta, int keep) {     \
    ST_WGMMA8(192, TYPES, SIGNS, ST_96, 96, 97, 98, 99, ST_D96(C));                                \
  }                                                                                                \
  template <int, int>                                                                              \
  __device__ void wgmma(TYPE, SUM (&d)[128], uint64_t a, uint64_t b, uint32_t meta, int keep) {    \
    ST_WGMMA8(256, TYPES, SIGNS, ST_128, 128, 129, 130, 131, ST_D128(C));                          \
  }

ST_PRODUCTS8(__nv_fp8_e4m3, float, "+f", "f32.e4m3.e4m3", ", 1, 1")
ST_PRODUCTS8(int8_t, int32_t, "+r", "s32.s8.s8", "")

#undef ST_0
#undef ST_10
#undef ST_32
#undef ST_64
#undef ST_96
#undef ST_128
#undef ST_D8
#undef ST_D32
#undef ST_D64
#undef ST_D96
#undef ST_D128
#undef ST_WGMMA
#undef ST_WGMMA8
#undef ST_PRODUCTS
#undef ST_PRODUCTS8
// clang-format on

}  // namespace sparsetrain
