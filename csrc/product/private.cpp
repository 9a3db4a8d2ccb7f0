#include "private.h"

#include "choose.h"
#include "table.h"

namespace sparsetrain {
namespace {

const int64_t* rows_of(const char* name, const Tensor& x, int64_t columns) {
  STD_TORCH_CHECK(x.is_cpu() && x.scalar_type() == ScalarType::Long && x.is_contiguous() &&
                      x.dim() == 2 && x.size(1) == columns,
                  name, ": expected contiguous int64 [n, ", columns, "] on the CPU, got shape ",
                  shape_of(x));
  return static_cast<const int64_t*>(x.const_data_ptr());
}

Problem problem_of(const int64_t* row) {
  return {row[0], row[1], row[2], row[3], row[4], row[5], row[6]};
}

}  // namespace

Tensor matmul24_tiles() {
  const int64_t sizes[2] = {static_cast<int64_t>(kTiles.size()), 2}, strides[2] = {2, 1};
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(2, sizes, strides, aoti_torch_dtype_int64(),
                                                  aoti_torch_device_type_cpu(), 0, &handle));
  Tensor tiles(handle);
  int64_t* to = static_cast<int64_t*>(tiles.mutable_data_ptr());
  for (const TileSize& tile : kTiles) *to++ = tile.rows, *to++ = tile.columns;
  return tiles;
}

Tensor matmul24_choice(const Tensor& problems, int64_t multiprocessors) {
  const int64_t* row = rows_of("problems", problems, 7);
  Tensor out = torch::stable::new_empty(problems, {problems.size(0), 5});
  int64_t* to = static_cast<int64_t*>(out.mutable_data_ptr());
  for (int64_t i = 0; i < problems.size(0); ++i, row += 7, to += 5) {
    Config config = choose(problem_of(row), static_cast<int>(multiprocessors));
    to[0] = config.tile, to[1] = config.cluster_m, to[2] = config.cluster_n;
    to[3] = config.group, to[4] = config.stream_k;
  }
  return out;
}

Tensor matmul24_expected(const Tensor& problems, int64_t multiprocessors) {
  const int64_t* row = rows_of("problems", problems, 7);
  Tensor out = torch::stable::new_empty(problems, {problems.size(0)});
  int64_t* to = static_cast<int64_t*>(out.mutable_data_ptr());
  for (int64_t i = 0; i < problems.size(0); ++i, row += 7) {
    double expected = expected_microseconds(problem_of(row), static_cast<int>(multiprocessors));
    to[i] = static_cast<int64_t>(1000 * expected);
  }
  return out;
}

void matmul24_table(const Tensor& table) {
  const int64_t* row = rows_of("table", table, 12);
  std::vector<std::pair<Problem, Config>> entries;
  for (int64_t i = 0; i < table.size(0); ++i, row += 12) {
    Config config{row[7], row[8], row[9], row[10], row[11]};
    bool known = config.tile >= 0 && config.tile < static_cast<int64_t>(kTiles.size()) &&
                 has_tile(row[0], static_cast<size_t>(config.tile)) &&
                 (config.cluster_m == 1 || config.cluster_m == 2) &&
                 (config.cluster_n == 1 || config.cluster_n == 2) && config.group >= 1 &&
                 config.group <= 64 && (config.stream_k == 0 || config.stream_k == 1);
    STD_TORCH_CHECK(known, "table: row ", i, " names no config of this library; tune again");
    entries.emplace_back(problem_of(row), config);
  }
  install(std::move(entries));
}

}  // namespace sparsetrain
