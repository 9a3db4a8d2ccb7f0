#include "run.h"

#include <algorithm>

#include "choose.h"
#include "launch_scaled.cuh"
#include "maps.h"
#include "narrowed.h"

namespace sparsetrain {
namespace {

int64_t bytes_of(const Tensor& x) { return static_cast<int64_t>(x.element_size()); }

bool aligned16(const Tensor& x, int64_t pitch_elements) {
  return reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0 &&
         pitch_elements * bytes_of(x) % 16 == 0;
}

// A copy of a matrix whose rows start on 16 bytes.
Tensor with_pitch(const Tensor& x) {
  Tensor wide = torch::stable::new_empty(x, {x.size(0), ceil_div(x.size(1), 64) * 64});
  Tensor copy = torch::stable::narrow(wide, 1, 0, x.size(1));
  torch::stable::copy_(copy, x);
  return copy;
}

// values with rows that start on 16 bytes.
Tensor readable_values(const Tensor& values) {
  bool is = values.stride(1) == 1 && values.stride(0) >= values.size(1) &&
            aligned16(values, values.stride(0));
  return is ? values : with_pitch(values);
}

bool columns_lie_together(const Tensor& b) { return b.stride(0) == 1 && b.stride(1) >= b.size(0); }

// b as the copy engine can read it: contiguous along one of its dimensions, its columns if they are
// of 8-bit values.
Tensor readable_b(const Tensor& b) {
  bool columns = columns_lie_together(b) && aligned16(b, b.stride(1));
  if (bytes_of(b) == 1) {
    return columns ? b
                   : torch::stable::transpose(with_pitch(torch::stable::transpose(b, 0, 1)), 0, 1);
  }
  bool rows = b.stride(1) == 1 && b.stride(0) >= b.size(1) && aligned16(b, b.stride(0)) &&
              b.size(1) % 64 == 0;
  return columns || rows ? b : with_pitch(b);
}

const float* floats(const Tensor& x) { return static_cast<const float*>(x.const_data_ptr()); }

// Whether scales are by block; along: their dimension of rows of A or columns of B, of so many.
bool by_block(const Tensor& scales, int along, int64_t size) {
  return scales.size(1 - along) > 1 || (scales.size(along) != 1 && scales.size(along) != size);
}

BlockScales block_scales(const Tensor& scales, int along) {
  return {floats(scales), static_cast<int>(scales.stride(along)),
          static_cast<int>(scales.stride(1 - along))};
}

// Read at the end of a tile for an operand with scales by block, in a step for another.
__device__ const float kOne = 1;

const float* one() {
  void* address = nullptr;
  STD_CUDA_CHECK(cudaGetSymbolAddress(&address, kOne));
  return static_cast<const float*>(address);
}

int multiprocessors(const Tensor& x) {
  int count = 0;
  STD_CUDA_CHECK(
      cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, x.get_device_index()));
  return count;
}

Schedule schedule_of(const Problem& problem, const Config& config) {
  const TileSize& tile = kTiles[config.tile];
  Schedule schedule{};
  schedule.tiles_m = static_cast<int>(ceil_div(problem.M, tile.rows * config.cluster_m));
  schedule.tiles_n = static_cast<int>(ceil_div(problem.N, tile.columns * config.cluster_n));
  schedule.group = static_cast<int>(config.group);
  schedule.steps = static_cast<int>(ceil_div(problem.K, depth(problem.type >= 2 ? 1 : 2)));
  int64_t tiles = int64_t{schedule.tiles_m} * schedule.tiles_n;
  int64_t workers = resident_clusters(static_cast<int>(config.cluster_m * config.cluster_n));
  if (config.stream_k) {
    // Where tiles are few, no range of fewer than four steps: it is not worth its partial sums.
    workers = std::max<int64_t>(std::min(workers, tiles * schedule.steps / 4), 1);
    int64_t last = tiles % workers;
    schedule.shared = static_cast<int>(tiles < workers || last == 0 ? last : last + workers);
  }
  schedule.workers = static_cast<int>(config.stream_k ? workers : std::min(workers, tiles));
  return schedule;
}

// How the result is written: by the copy engine where it is in 8 bits, and where nothing but a bias
// is added, or GELU of 16 bits, and rows of the result start on 16 bytes.
Finish finish_of(const Wanted& wanted, const Tensor& out, bool rows_of_b) {
  if (wanted.factors_out) return Finish::kNarrow;
  bool wide = out.scalar_type() == ScalarType::Float;
  bool gelu = wanted.activation == Activation::kGelu && !rows_of_b;
  bool stored = !wanted.residual && (wanted.activation == Activation::kNone || gelu) &&
                (rows_of_b || !wide) &&
                reinterpret_cast<uintptr_t>(out.const_data_ptr()) % 16 == 0 &&
                out.size(1) * (wide ? 4 : 2) % 16 == 0;
  if (!stored) return Finish::kGeneral;
  return wide ? Finish::kWide : gelu ? Finish::kGelu : Finish::kPlain;
}

template <int kGroups, int kBlocks, int kColumns>
void launch_either(const Arguments& arguments, const Variant& variant, bool narrow, int grid,
                   cudaStream_t stream) {
  if (narrow) {
    return launch_scaled<Tile<kGroups, kBlocks, kColumns, 1>>(arguments, variant, grid, stream);
  }
  launch<Tile<kGroups, kBlocks, kColumns>>(arguments, variant, grid, stream);
}

}  // namespace

void check_product(const Tensor& values, const Tensor& meta, const Tensor& b) {
  STD_TORCH_CHECK(
      values.scalar_type() == ScalarType::BFloat16 || values.scalar_type() == ScalarType::Half,
      "values: ", torch::headeronly::toString(values.scalar_type()),
      " has no sparse tensor cores; use bfloat16, float16 or float32");
  check_operands(values, meta, b);
  int major = 0;
  STD_CUDA_CHECK(
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, values.get_device_index()));
  STD_TORCH_CHECK(major == 9, "values: on a GPU of compute capability ", major,
                  ".x, and the kernel needs 9.0; use engine=\"aten\" (8.x) or engine=\"masked\"");
}

void check_operands(const Tensor& values, const Tensor& meta, const Tensor& b) {
  STD_TORCH_CHECK(values.dim() == 2, "values: expected 2 dimensions, got shape ", shape_of(values));
  STD_TORCH_CHECK(b.dim() == 2, "b: expected 2 dimensions, got shape ", shape_of(b));
  int64_t K = 2 * values.size(1);
  STD_TORCH_CHECK(K % 4 == 0, "values: ", values.size(1),
                  " columns are not two per group; pass what pack24 returns");
  STD_TORCH_CHECK(b.scalar_type() == values.scalar_type(),
                  "b: ", torch::headeronly::toString(b.scalar_type()), ", but values is ",
                  torch::headeronly::toString(values.scalar_type()), "; cast one of them");
  check_packed("values", values, "meta", meta, b, values.size(0), K);
  STD_TORCH_CHECK(b.size(0) == K || padded_rows(b.size(0)) == K, "b: ", b.size(0),
                  " rows do not fit a packed matrix of ", K, " columns; pass ", K);
}

void check_bias(const std::optional<Tensor>& bias, const Tensor& b, int64_t length) {
  if (!bias) return;
  STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == length, "bias: shape ", shape_of(*bias),
                  " should be (", length, "), the last dimension of what is returned");
  STD_TORCH_CHECK(bias->scalar_type() == b.scalar_type(),
                  "bias: ", torch::headeronly::toString(bias->scalar_type()), " should be ",
                  torch::headeronly::toString(b.scalar_type()));
  STD_TORCH_CHECK(bias->get_device_index() == b.get_device_index(),
                  "bias: on another device than b; move it");
}

void check_out(const char* name, const Tensor& out, const Tensor& b, int64_t rows,
               int64_t columns) {
  STD_TORCH_CHECK(out.dim() == 2 && out.size(0) == rows && out.size(1) == columns, name, ": shape ",
                  shape_of(out), " should be (", rows, ", ", columns, ")");
  STD_TORCH_CHECK(out.scalar_type() == b.scalar_type() || out.scalar_type() == ScalarType::Float,
                  name, ": ", torch::headeronly::toString(out.scalar_type()), " should be ",
                  torch::headeronly::toString(b.scalar_type()), " or Float");
  STD_TORCH_CHECK(out.get_device_index() == b.get_device_index(), name,
                  ": on another device than b; move it");
}

void run_product(const Tensor& values_in, const Tensor& meta_in, const Tensor& b_in,
                 const Wanted& wanted, const Tensor& out) {
  if (out.numel() == 0) return;
  if (values_in.size(1) == 0 || b_in.size(0) == 0) {
    // A sum of nothing is one of 64 zeros; 4, the positions 0 and 1, is metadata that there may be.
    int64_t M = values_in.size(0);
    Tensor meta = torch::stable::new_empty(meta_in, {1, ceil_div(M, 64), 512});
    torch::stable::fill_(meta, 0x44);
    return run_product(torch::stable::new_zeros(values_in, {M, 32}), meta,
                       torch::stable::new_zeros(b_in, {64, b_in.size(1)}), wanted, out);
  }
  Tensor values = readable_values(values_in), meta = aligned(meta_in), b = readable_b(b_in);
  // A matrix that is contiguous both ways is one row or column: either will do.
  bool rows_of_b = !(columns_lie_together(b) && aligned16(b, b.stride(1)));
  bool wide = out.scalar_type() == ScalarType::Float, narrow = wanted.scales.has_value();
  bool blocks_a = narrow && by_block(*wanted.scales, 0, values.size(0));
  bool blocks_b = narrow && by_block(*wanted.scales_b, 1, b.size(1));
  bool blocks = blocks_a || blocks_b;
  Problem problem{narrow ? 2 + blocks : values.scalar_type() == ScalarType::Half,
                  values.size(0),
                  b.size(1),
                  2 * values.size(1),
                  !columns_lie_together(b_in),  // as it was given: so the table names it
                  wanted.transposed,
                  wide};
  // A thread that never called the runtime, as autograd's may be, has no context to describe
  // matrices in.
  STD_CUDA_CHECK(cudaSetDevice(values.get_device_index()));
  Config config = choose(problem, multiprocessors(values));
  // Of 192 columns the end of an 8-bit result would spill registers. Of 128 it does not.
  if (wanted.factors_out && config.tile == 1) config.tile = 2;
  const TileSize& tile = kTiles[config.tile];

  Arguments arguments{};
  arguments.M = static_cast<int>(problem.M);
  arguments.N = static_cast<int>(problem.N);
  arguments.cluster_m = static_cast<int>(config.cluster_m);
  arguments.cluster_n = static_cast<int>(config.cluster_n);
  arguments.schedule = schedule_of(problem, config);
  int bytes = static_cast<int>(bytes_of(values));
  arguments.a = map_rows({values.const_data_ptr(), values.size(1), problem.M,
                          values.stride(0) * bytes, kRowBytesA / bytes,
                          tile.rows / arguments.cluster_n, CU_TENSOR_MAP_SWIZZLE_64B, bytes});
  arguments.meta = map_meta(meta, tile.rows / 64 / arguments.cluster_n);
  if (rows_of_b) {
    arguments.b = map_columns({b.const_data_ptr(), b.size(1), b.size(0), b.stride(0) * 2, 64, 32,
                               CU_TENSOR_MAP_SWIZZLE_128B},
                              tile.columns / 64);
  } else {
    arguments.b = map_rows({b.const_data_ptr(), b.size(0), b.size(1), b.stride(1) * bytes,
                            kColumnBytesB / bytes, tile.columns / arguments.cluster_m,
                            CU_TENSOR_MAP_SWIZZLE_128B, bytes});
  }

  Tensor scales_a = values, scales_b = values, factors_out = values;
  if (narrow) {
    if (blocks) {
      arguments.scales = {one(), one(), 0, 0};
      arguments.blocks_a = blocks_a ? block_scales(*wanted.scales, 0) : BlockScales{one(), 0, 0};
      arguments.blocks_b = blocks_b ? block_scales(*wanted.scales_b, 1) : BlockScales{one(), 0, 0};
    }
    if (!blocks_a) {
      scales_a = aligned(*wanted.scales);
      arguments.scales.a = floats(scales_a), arguments.scales.step_a = scales_a.size(0) > 1;
    }
    if (!blocks_b) {
      scales_b = aligned(*wanted.scales_b);
      arguments.scales.b = floats(scales_b), arguments.scales.step_b = wanted.scales_b->size(1) > 1;
    }
    if (wanted.factors_out) {
      factors_out = aligned(*wanted.factors_out);
      arguments.factors_out = floats(factors_out);
    }
  }

  Epilogue& epilogue = arguments.epilogue;
  Tensor bias = wanted.bias ? aligned(*wanted.bias) : values;
  epilogue.bias = wanted.bias ? bias.const_data_ptr() : nullptr;
  arguments.wide_bias = narrow && bias.scalar_type() == ScalarType::Float;
  if (wanted.residual) {
    epilogue.residual = wanted.residual->const_data_ptr();
    epilogue.residual_rows = wanted.residual->stride(0);
    epilogue.residual_columns = wanted.residual->stride(1);
  }
  epilogue.out = out.mutable_data_ptr();
  epilogue.width = out.size(1);
  epilogue.activation = wanted.activation;
  epilogue.transposed = wanted.transposed;
  epilogue.wide = wide;
  uintptr_t pair = wide ? 8 : 4;
  epilogue.pairs =
      out.size(1) % 2 == 0 && reinterpret_cast<uintptr_t>(out.const_data_ptr()) % pair == 0;
  Finish finish = finish_of(wanted, out, rows_of_b);
  if (finish != Finish::kGeneral) {
    int box = wide ? kWideBox : kPiece, size = static_cast<int>(bytes_of(out));
    auto swizzle = size == 1 ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_128B;
    arguments.d = map_rows({out.const_data_ptr(), out.size(1), out.size(0), out.size(1) * size, box,
                            box, swizzle, size});
  }

  cudaStream_t stream = current_stream(values);
  int grid = arguments.schedule.workers * arguments.cluster_m * arguments.cluster_n;
  Tensor partial = values;
  if (arguments.schedule.shared > 0) {
    // Partial sums of every block, then a flag for each warpgroup.
    int64_t sums = int64_t{grid} * tile.rows * tile.columns, flags = int64_t{grid} * 4;
    partial = torch::stable::new_empty(values, {sums + flags}, ScalarType::Float);
    arguments.partial = static_cast<float*>(partial.mutable_data_ptr());
    arguments.ready = reinterpret_cast<int*>(arguments.partial + sums);
    STD_CUDA_CHECK(cudaMemsetAsync(arguments.ready, 0, flags * sizeof(int), stream));
  }
  Variant variant{values.scalar_type(), out.scalar_type(), rows_of_b, finish};
  if (finish == Finish::kNarrow) return launch_narrowed(config.tile, arguments, grid, stream);
  if (blocks) return launch_scaled<Tile<2, 2, 128, 1>, true>(arguments, variant, grid, stream);
  switch (config.tile) {
    case 0:
      return launch_either<2, 1, 256>(arguments, variant, narrow, grid, stream);
    case 1:
      return launch_either<2, 2, 192>(arguments, variant, narrow, grid, stream);
    case 2:
      return launch_either<2, 2, 128>(arguments, variant, narrow, grid, stream);
    default:
      return launch<Tile<2, 1, 128>>(arguments, variant, grid, stream);  // not of 8-bit values
  }
}

}  // namespace sparsetrain
