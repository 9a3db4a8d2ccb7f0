// The tile of a block, and the shared memory in which what it writes is put together.
#pragma once

#include "matrix.cuh"

namespace sparsetrain {

// A block takes 64 rows and kColumns columns, with one thread for each column: a thread takes a
// patch of 8 x 8.
constexpr int kRows = 64, kWide = 256, kNarrow = 128;
constexpr int kAtom = 512;  // bytes of metadata of 64 x 64 values

// Blocks that share a multiprocessor: as many as the registers of the kernel allow.
template <class T, bool kVector, int kColumns, bool kTwoMasks, bool kSome = false>
constexpr int kBlocks = (!kVector || (sizeof(T) == 4 && kTwoMasks) ? 256
                         : sizeof(T) == 4 || kTwoMasks || kSome    ? 512
                                                                   : 768) /
                        kColumns;

// Where a thread works: the block's tile, and its patch in it.
template <int kColumns>
struct Place {
  int64_t first_row, first_column;  // of the tile
  int rows, columns;                // of the tile that are inside the matrix
  int p, q;                         // the patch: rows 8 p to 8 p + 7, columns 8 q to 8 q + 7
  int left;                         // rows inside the matrix from the patch's first

  __device__ Place(const Matrix& x) {
    unsigned tile_columns = static_cast<unsigned>((x.columns + kColumns - 1) / kColumns);
    first_row = int64_t{blockIdx.x / tile_columns} * kRows;
    first_column = int64_t{blockIdx.x % tile_columns} * kColumns;
    rows = static_cast<int>(max(min(x.rows - first_row, int64_t{kRows}), int64_t{0}));
    columns = static_cast<int>(min(x.columns - first_column, int64_t{kColumns}));
    // A warp takes 32 rows x 64 columns: eight lanes side by side, four below each other.
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    p = warp / (kColumns / 64) * 4 + lane / 8;
    q = warp % (kColumns / 64) * 8 + lane % 8;
    left = 8 * q < columns ? rows - 8 * p : 0;
  }

  __device__ int64_t row() const { return first_row + 8 * p; }
  __device__ int64_t column() const { return first_column + 8 * q; }
};

// One block for each tile, of the rows up to the padding.
inline unsigned tiles_of(const Tensor& x, int columns = kWide) {
  return static_cast<unsigned>(padded_rows(x.size(0)) / kRows * ceil_div(x.size(1), columns));
}

inline Tensor new_values(const Tensor& x, ScalarType type) {
  return torch::stable::new_empty(x, {x.size(0), x.size(1) / 2}, type);
}
inline Tensor new_meta(const Tensor& x) {
  return torch::stable::new_empty(x, {ceil_div(x.size(1), 64), ceil_div(x.size(0), 64), kAtom},
                                  ScalarType::Byte);
}
inline Tensor new_values_t(const Tensor& x, ScalarType type) {
  return torch::stable::new_empty(x, {x.size(1), padded_rows(x.size(0)) / 2}, type);
}
inline Tensor new_meta_t(const Tensor& x) {
  return torch::stable::new_empty(x, {padded_rows(x.size(0)) / 64, ceil_div(x.size(1), 64), kAtom},
                                  ScalarType::Byte);
}

// Launches a kernel on the stream and the device of x.
template <class Kernel, class... Arguments>
void launch(Kernel kernel, unsigned blocks, int threads, size_t shared, const Tensor& x,
            const Arguments&... arguments) {
  if (shared > 48 * 1024)
    STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        static_cast<int>(shared)));
  kernel<<<blocks, threads, shared, current_stream(x)>>>(arguments...);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// Lines of bytes in shared memory. After every eight lies a gap, chosen so that a warp's stores
// meet few banks twice.
template <int kThreads, int kLines, int kBytes, int kGap>
struct Lines {
  alignas(16) char bytes[kLines / 8 * (8 * kBytes + kGap)];

  template <class T>
  __device__ T& at(int line, int byte) {
    return *reinterpret_cast<T*>(bytes + line / 8 * (8 * kBytes + kGap) + line % 8 * kBytes + byte);
  }

  // The same lines in memory are `stride` bytes apart; the first `lines` are inside the matrix, and
  // of each the first `wide` bytes. Unit: what stride and address are always a multiple of.
  template <class Unit>
  __device__ void store(char* to, int lines, int64_t stride, int wide) {
    visit<Unit>(to, lines, stride, wide, [](auto& here, char* there) {
      *reinterpret_cast<std::decay_t<decltype(here)>*>(there) = here;
    });
  }

  // Zeros where there is nothing to load.
  template <class Unit>
  __device__ void load(const char* from, int lines, int64_t stride, int wide) {
    for (int i = threadIdx.x; i < static_cast<int>(sizeof(bytes) / 16); i += kThreads)
      reinterpret_cast<uint4*>(bytes)[i] = make_uint4(0, 0, 0, 0);
    __syncthreads();
    visit<Unit>(from, lines, stride, wide, [](auto& here, const char* there) {
      here = *reinterpret_cast<const std::decay_t<decltype(here)>*>(there);
    });
  }

  // Calls f for each place here and there, by 16 bytes where that is possible.
  template <class Unit, class Char, class F>
  __device__ void visit(Char* there, int lines, int64_t stride, int wide, F f) {
    if (stride % 16 == 0) {
      visit_by<uint4>(there, lines, stride, wide, f);
    } else {
      visit_by<Unit>(there, lines, stride, wide, f);
    }
  }

  template <class Unit, class Char, class F>
  __device__ void visit_by(Char* there, int lines, int64_t stride, int wide, F f) {
    constexpr int per_line = kBytes / sizeof(Unit), step = kThreads / per_line;
    static_assert(kThreads % per_line == 0);
    int line = threadIdx.x / per_line, byte = threadIdx.x % per_line * sizeof(Unit);
    if (byte >= wide) return;
    there += line * stride + byte;
#pragma unroll
    for (int i = 0; i < kLines; i += step, there += step * stride)
      if (line + i < lines) f(at<Unit>(line + i, byte), there);
  }
};

// Metadata of atoms of 64 lines x 64 values side by side, in the order that CUTLASS has for wgmma
// (sparsetrain/reference/pack24.py).
template <int kColumns>
struct Atoms {
  alignas(16) uint8_t bytes[kColumns / 64 * kAtom];

  // Of an atom, the byte of line 8 line8 + i, values 8 value8 to 8 value8 + 7.
  __device__ uint8_t& at(int atom, int line8, int value8, int i) {
    return bytes[atom * kAtom + line8 / 2 % 4 * 128 + value8 / 2 % 2 * 64 + i * 8 +
                 value8 / 4 % 2 * 4 + line8 % 2 * 2 + value8 % 2];
  }

  // As metadata of the rows, [ceil(columns / 64), ceil(rows / 64), 512].
  __device__ void store_rows(uint8_t* meta, const Matrix& x, const Place<kColumns>& at) const {
    int64_t row_blocks = (x.rows + 63) / 64;
    if (at.rows > 0)
      store(meta + (at.first_column / 64 * row_blocks + at.first_row / 64) * kAtom,
            (at.columns + 63) / 64, row_blocks * kAtom);
  }

  // As metadata of the columns, [padded rows / 64, ceil(columns / 64), 512].
  __device__ void store_columns(uint8_t* meta_t, const Matrix& x, const Place<kColumns>& at) const {
    int64_t column_blocks = (x.columns + 63) / 64;
    store(meta_t + (at.first_row / 64 * column_blocks + at.first_column / 64) * kAtom,
          (at.columns + 63) / 64, kAtom);
  }

  // What store_rows stored; zeros where there are no rows.
  __device__ void load_rows(const uint8_t* meta, const Matrix& x, const Place<kColumns>& at) {
    int64_t row_blocks = (x.rows + 63) / 64;
    load(meta + (at.first_column / 64 * row_blocks + at.first_row / 64) * kAtom,
         at.rows > 0 ? (at.columns + 63) / 64 : 0, row_blocks * kAtom);
  }

  // What store_columns stored.
  __device__ void load_columns(const uint8_t* meta_t, const Matrix& x, const Place<kColumns>& at) {
    int64_t column_blocks = (x.columns + 63) / 64;
    load(meta_t + (at.first_row / 64 * column_blocks + at.first_column / 64) * kAtom,
         (at.columns + 63) / 64, kAtom);
  }

 private:
  static constexpr int per_atom = kAtom / 16;

  __device__ void load(const uint8_t* from, int atoms, int64_t stride) {
    for (int i = threadIdx.x; i < kColumns / 64 * per_atom; i += kColumns)
      reinterpret_cast<uint4*>(bytes)[i] =
          i < atoms * per_atom
              ? reinterpret_cast<const uint4*>(from + i / per_atom * stride)[i % per_atom]
              : make_uint4(0, 0, 0, 0);
  }

  // Atom k goes to `to` + k * stride.
  __device__ void store(uint8_t* to, int atoms, int64_t stride) const {
    for (int i = threadIdx.x; i < atoms * per_atom; i += kColumns)
      reinterpret_cast<uint4*>(to + i / per_atom * stride)[i % per_atom] =
          reinterpret_cast<const uint4*>(bytes)[i];
  }
};

// The packed values of both orientations.
template <class T, int kColumns>
struct StagedValues {
  Lines<kColumns, kRows, kColumns / 2 * sizeof(T), 64> values;
  Lines<kColumns, kColumns, kRows / 2 * sizeof(T), 16> values_t;

  __device__ void store_rows(void* to, const Matrix& x, const Place<kColumns>& at) {
    int64_t stride = x.columns / 2 * sizeof(T);
    values.template store<uint32_t>(
        static_cast<char*>(to) + at.first_row * stride + at.first_column / 2 * sizeof(T), at.rows,
        stride, at.columns / 2 * sizeof(T));
  }

  __device__ void store_columns(void* to, const Matrix& x, const Place<kColumns>& at) {
    int64_t stride = padded_rows(x.rows) / 2 * sizeof(T);
    values_t.template store<uint32_t>(
        static_cast<char*>(to) + at.first_column * stride + at.first_row / 2 * sizeof(T),
        at.columns, stride, kRows / 2 * sizeof(T));
  }
};

}  // namespace sparsetrain
