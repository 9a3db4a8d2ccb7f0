// A scale for each row of a matrix: a team of threads takes a row and holds it in registers.
#pragma once

#include "by_eight.cuh"
#include "scales.cuh"

namespace sparsetrain {

// Where the q of a matrix and its scales go.
struct To {
  void* q;  // [rows, columns]
  float* scales;
  bool power_of_two;
};

// What becomes of eight values before they are quantized, each rounded to its type.
struct AsItIs {
  template <class In>
  __device__ void operator()(In (&)[8]) const {}
};

// The values that a thread holds, of up to kVectors places of a matrix, eight at each.
template <class In, class Q, bool kVector, int kVectors>
class Held {
 public:
  __device__ explicit Held(const Matrix& x) : x_(x) {}

  __device__ void load(int v, int64_t row, int64_t column) {
    load_raw<kVector>(x_, row, column, raw_[v]);
  }

  template <class Map>
  __device__ void apply(int v, const Map& map) {
    map(raw_[v]);
  }

  // The largest magnitude so far, as bits: of 16-bit types those of two values beside each other.
  __device__ uint32_t largest(int v, uint32_t so_far) const {
    if constexpr (sizeof(In) == 2) {
#pragma unroll
      for (int w = 0; w < 4; ++w)
        so_far = __vmaxu2(so_far, reinterpret_cast<const uint32_t*>(raw_[v])[w] & 0x7fff7fff);
    } else {
#pragma unroll
      for (int c = 0; c < 8; ++c) so_far = max(so_far, magnitude(raw_[v][c]));
    }
    return so_far;
  }

  // What `largest` found, as the bits of a float.
  static __device__ uint32_t as_float(uint32_t found) {
    if constexpr (sizeof(In) == 2) {
      auto bits = static_cast<uint16_t>(max(found >> 16, found & 0xffff));
      return magnitude(static_cast<float>(reinterpret_cast<const In&>(bits)));
    }
    return found;
  }

  __device__ void store(int v, int64_t row, int64_t column, float inverse, void* to) const {
    uint32_t words[2];
#pragma unroll
    for (int w = 0; w < 2; ++w) {
      float value[4];
#pragma unroll
      for (int c = 0; c < 4; ++c)
        value[c] = __fmul_rn(static_cast<float>(raw_[v][4 * w + c]), inverse);
      words[w] = EightBits<Q>::four(value);
    }
    uint8_t* out = static_cast<uint8_t*>(to) + row * x_.columns + column;
    if constexpr (kVector) {
      *reinterpret_cast<uint2*>(out) = make_uint2(words[0], words[1]);
    } else {
#pragma unroll
      for (int c = 0; c < 8; ++c)
        if (column + c < x_.columns) out[c] = words[c / 4] >> 8 * (c % 4) & 0xff;
    }
  }

 private:
  const Matrix& x_;
  alignas(16) In raw_[kVectors][8];
};

// The largest of a team of warps, a whole block of kThreads at a time.
template <int kTeam, int kThreads>
__device__ uint32_t largest_of_team(uint32_t value) {
  value = __reduce_max_sync(0xffffffff, value);
  if constexpr (kTeam > 32) {
    __shared__ uint32_t of_warps[kThreads / 32];
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = value;
    __syncthreads();
    int first = threadIdx.x / kTeam * (kTeam / 32);
#pragma unroll
    for (int w = 0; w < kTeam / 32; ++w) value = max(value, of_warps[first + w]);
  }
  return value;
}

__host__ __device__ constexpr int threads_of(int team) { return team > 256 ? team : 256; }

constexpr int kHeld = 4;  // vectors of eight values that a thread of a team holds

// A team of threads takes a row: reads it once where it can hold it.
template <class In, class Q, bool kVector, int kTeam, class Map>
__global__ void __launch_bounds__(threads_of(kTeam))
    quantize_rows_kernel(Matrix x, To to, Map map) {
  constexpr int kThreads = threads_of(kTeam), kChunk = kTeam * kHeld * 8;
  int64_t row = blockIdx.x * int64_t{kThreads / kTeam} + threadIdx.x / kTeam;
  int64_t columns = row < x.rows ? x.columns : 0;
  int thread = threadIdx.x % kTeam;
  using Held = Held<In, Q, kVector, kHeld>;
  Held held(x);
  auto each = [&](int64_t chunk, auto f) {
#pragma unroll
    for (int v = 0; v < kHeld; ++v) {
      int64_t column = chunk + 8 * (v * kTeam + thread);
      if (column < columns) f(v, column);
    }
  };
  uint32_t largest = 0;
  auto load = [&](int64_t chunk) {  // all loads, then what waits for them
    each(chunk, [&](int v, int64_t column) { held.load(v, row, column); });
    each(chunk, [&](int v, int64_t) { held.apply(v, map); });
  };
  for (int64_t chunk = 0; chunk < columns; chunk += kChunk) {
    load(chunk);
    each(chunk, [&](int v, int64_t) { largest = held.largest(v, largest); });
  }
  largest = largest_of_team<kTeam, kThreads>(Held::as_float(largest));
  float inverse = inverse_of<Q>(largest, to.power_of_two);
  if (thread == 0 && row < x.rows) to.scales[row] = __frcp_rn(inverse);
  for (int64_t chunk = 0; chunk < columns; chunk += kChunk) {
    if (columns > kChunk) load(chunk);
    each(chunk, [&](int v, int64_t column) { held.store(v, row, column, inverse, to.q); });
  }
}

template <class In, class Q, bool kVector, class Map>
void launch_rows(const Tensor& x, const To& to, const Map& map) {
  auto run = [&](auto kernel, int team) {
    int threads = threads_of(team);
    auto blocks = static_cast<unsigned>(ceil_div(x.size(0), threads / team));
    kernel<<<blocks, threads, 0, current_stream(x)>>>(matrix_of(x), to, map);
  };
  int64_t threads = ceil_div(x.size(1), kHeld * 8);
  if (threads <= 32) {
    run(quantize_rows_kernel<In, Q, kVector, 32, Map>, 32);
  } else if (threads <= 64) {
    run(quantize_rows_kernel<In, Q, kVector, 64, Map>, 64);
  } else if (threads <= 128) {
    run(quantize_rows_kernel<In, Q, kVector, 128, Map>, 128);
  } else if (threads <= 256) {
    run(quantize_rows_kernel<In, Q, kVector, 256, Map>, 256);
  } else {
    run(quantize_rows_kernel<In, Q, kVector, 512, Map>, 512);
  }
}

}  // namespace sparsetrain
