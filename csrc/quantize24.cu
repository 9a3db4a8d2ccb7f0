#include "quantize24.h"

#include "common/quantized.h"
#include "pack_into24.h"

namespace sparsetrain {

std::tuple<Tensor, Tensor, Tensor> quantize24(const Tensor& x, const Tensor& mask, ScalarType dtype,
                                              const std::string& scaling, bool power_of_two) {
  check_groups("x", x);
  Quantizing how{dtype, scaling, power_of_two};
  check_quantizing(how);
  int64_t rows = x.size(0), columns = x.size(1);
  DeviceGuard guard(x.get_device_index());
  Tensor values = torch::stable::new_empty(x, {rows, columns / 2});
  Tensor meta = torch::stable::new_empty(x, {ceil_div(columns, 64), ceil_div(rows, 64), 512},
                                         ScalarType::Byte);
  pack_into24(x, mask, "transposable", values, meta, std::nullopt, std::nullopt, std::nullopt);
  return narrow(values, meta, rows, columns, how);
}

}  // namespace sparsetrain
