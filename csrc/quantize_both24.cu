#include "quantize_both24.h"

#include "apply24.h"
#include "common/quantized.h"

namespace sparsetrain {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> quantize_both24(
    const Tensor& x, const Tensor& mask, ScalarType dtype, const std::string& scaling,
    bool power_of_two) {
  check_groups("x", x);
  Quantizing how{dtype, scaling, power_of_two};
  check_quantizing(how);
  int64_t rows = x.size(0), columns = x.size(1);
  auto [values, meta, values_t, meta_t] = apply24(x, mask, std::nullopt);
  auto narrowed = narrow(values, meta, rows, columns, how);
  return std::tuple_cat(narrowed, narrow(values_t, meta_t, columns, padded_rows(rows), how));
}

}  // namespace sparsetrain
