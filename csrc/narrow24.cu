#include "narrow24.h"

#include "common/quantized.h"

namespace sparsetrain {

std::tuple<Tensor, Tensor, Tensor> narrow24(const Tensor& values, const Tensor& meta,
                                            ScalarType dtype, bool power_of_two) {
  check_matrix("values", values);
  int64_t rows = values.size(0), columns = 2 * values.size(1);
  check_packed("values", values, "meta", meta, values, rows, columns);
  Quantizing how{dtype, "row", power_of_two};
  check_quantizing(how);
  return narrow(values, meta, rows, columns, how);
}

}  // namespace sparsetrain
