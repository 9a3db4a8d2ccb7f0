#include "add_matmul24_.h"

#include "product/reference.h"
#include "product/run.h"

namespace sparsetrain {

void add_matmul24_(Tensor out, const Tensor& values, const Tensor& meta, const Tensor& b,
                   bool transpose_out) {
  if (!has_kernel(values)) {
    call_reference("sparsetrain::_add_matmul24_reference_", out, values, meta, b, transpose_out);
    return;
  }
  check_product(values, meta, b);
  int64_t M = values.size(0), N = b.size(1);
  check_out("out", out, b, transpose_out ? N : M, transpose_out ? M : N);
  STD_TORCH_CHECK(out.is_contiguous(), "out: not contiguous; pass out.contiguous()");
  DeviceGuard guard(values.get_device_index());
  Wanted wanted;
  wanted.transposed = transpose_out;
  wanted.add = true;
  run_product(values, meta, b, wanted, out);
}

}  // namespace sparsetrain
