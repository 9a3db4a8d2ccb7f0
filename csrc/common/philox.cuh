// Philox4x32-10 (Salmon et al., SC 2011), as sparsetrain/reference/philox.py.
#pragma once

#include <cstdint>

namespace sparsetrain {

__device__ inline void multiply(uint32_t a, uint32_t b, uint32_t& high, uint32_t& low) {
  asm("{.reg .b64 product; mul.wide.u32 product, %2, %3; mov.b64 {%1, %0}, product;}"
      : "=r"(high), "=r"(low)
      : "r"(a), "r"(b));
}

__device__ inline uint4 philox4x32(uint4 counter, uint2 key) {
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    uint32_t high0, low0, high1, low1;
    multiply(0xd2511f53u, counter.x, high0, low0);
    multiply(0xcd9e8d57u, counter.z, high1, low1);
    counter = make_uint4(high1 ^ counter.y ^ key.x, low1, high0 ^ counter.w ^ key.y, low0);
    key.x += 0x9e3779b9u;
    key.y += 0xbb67ae85u;
  }
  return counter;
}

// A number in [0, 1), a multiple of 2^-24. The shift is a multiplication, because the kernel that
// draws waits for the units that shift.
__device__ inline float uniform24(uint32_t word) {
  uint32_t high;
  asm("mul.hi.u32 %0, %1, 0x1000000;" : "=r"(high) : "r"(word));
  return static_cast<float>(high) * 0x1p-24f;
}

// The key of a seed: its low and its high half.
__device__ inline uint2 key_of(const int64_t* seed) {
  auto bits = static_cast<uint64_t>(*seed);
  return make_uint2(static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32));
}

}  // namespace sparsetrain
