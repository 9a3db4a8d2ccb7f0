#include "matmul24_sums.h"

#include "common/sum_rows.h"
#include "product/reference.h"
#include "product/run.h"

namespace sparsetrain {

std::tuple<Tensor, Tensor> matmul24_sums(const Tensor& values, const Tensor& meta, const Tensor& b,
                                         const std::optional<Tensor>& bias, bool transpose_out) {
  if (!has_kernel(values)) {
    auto stack = call_reference("sparsetrain::_matmul24_sums_reference", values, meta, b, bias,
                                transpose_out);
    return {torch::stable::detail::to<Tensor>(stack[0]),
            torch::stable::detail::to<Tensor>(stack[1])};
  }
  check_product(values, meta, b);
  int64_t rows = transpose_out ? b.size(1) : values.size(0);
  int64_t columns = transpose_out ? values.size(0) : b.size(1);
  check_bias(bias, b, columns);
  DeviceGuard guard(values.get_device_index());
  Tensor out = torch::stable::new_empty(values, {rows, columns});
  // What the epilogue leaves: four partial sums for 64 rows (product/arguments.h).
  Tensor partial =
      torch::stable::new_empty(values, {ceil_div(rows, 64) * 4, columns}, ScalarType::Float);
  Tensor sums = torch::stable::new_empty(values, {columns}, ScalarType::Float);
  Wanted wanted;
  wanted.bias = bias;
  wanted.transposed = transpose_out;
  wanted.sums = static_cast<float*>(partial.mutable_data_ptr());
  run_product(values, meta, b, wanted, out);
  sum_rows(partial, sums);
  return {out, sums};
}

}  // namespace sparsetrain
