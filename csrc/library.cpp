// The kernels, one line each. Schemas and fakes are in sparsetrain/ops.
#include <torch/csrc/stable/library.h>

#include "add_mask24_.h"
#include "apply24.h"
#include "column_sums.h"
#include "flips24.h"
#include "gelu.h"
#include "gelu_backward.h"
#include "gelu_backward_quantize.h"
#include "gelu_quantize.h"
#include "mask24.h"
#include "matmul24.h"
#include "mvue24.h"
#include "narrow24.h"
#include "pack_into24.h"
#include "product/private.h"
#include "quantize.h"
#include "quantize24.h"
#include "quantize_across24.h"
#include "quantize_both24.h"
#include "random24.h"
#include "scaled_gelu_matmul24.h"
#include "scaled_matmul24.h"
#include "select24.h"
#include "soft_threshold24.h"
#include "sparsify24.h"
#include "squared_relu24.h"
#include "squared_relu24_backward.h"
#include "squared_relu24_backward_quantize.h"
#include "squared_relu24_quantize.h"

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CUDA, m) {
  m.impl("add_mask24_", TORCH_BOX(&sparsetrain::add_mask24_));
  m.impl("apply24", TORCH_BOX(&sparsetrain::apply24));
  m.impl("column_sums", TORCH_BOX(&sparsetrain::column_sums));
  m.impl("flips24", TORCH_BOX(&sparsetrain::flips24));
  m.impl("gelu", TORCH_BOX(&sparsetrain::gelu));
  m.impl("gelu_backward", TORCH_BOX(&sparsetrain::gelu_backward));
  m.impl("gelu_backward_quantize", TORCH_BOX(&sparsetrain::gelu_backward_quantize));
  m.impl("gelu_quantize", TORCH_BOX(&sparsetrain::gelu_quantize));
  m.impl("mask24", TORCH_BOX(&sparsetrain::mask24));
  m.impl("matmul24", TORCH_BOX(&sparsetrain::matmul24));
  m.impl("mvue24", TORCH_BOX(&sparsetrain::mvue24));
  m.impl("narrow24", TORCH_BOX(&sparsetrain::narrow24));
  m.impl("pack_into24", TORCH_BOX(&sparsetrain::pack_into24));
  m.impl("quantize", TORCH_BOX(&sparsetrain::quantize));
  m.impl("quantize24", TORCH_BOX(&sparsetrain::quantize24));
  m.impl("quantize_across24", TORCH_BOX(&sparsetrain::quantize_across24));
  m.impl("quantize_both24", TORCH_BOX(&sparsetrain::quantize_both24));
  m.impl("random24", TORCH_BOX(&sparsetrain::random24));
  m.impl("scaled_gelu_matmul24", TORCH_BOX(&sparsetrain::scaled_gelu_matmul24));
  m.impl("scaled_matmul24", TORCH_BOX(&sparsetrain::scaled_matmul24));
  m.impl("select24", TORCH_BOX(&sparsetrain::select24));
  m.impl("soft_threshold24", TORCH_BOX(&sparsetrain::soft_threshold24));
  m.impl("sparsify24", TORCH_BOX(&sparsetrain::sparsify24));
  m.impl("squared_relu24", TORCH_BOX(&sparsetrain::squared_relu24));
  m.impl("squared_relu24_backward", TORCH_BOX(&sparsetrain::squared_relu24_backward));
  m.impl("squared_relu24_backward_quantize",
         TORCH_BOX(&sparsetrain::squared_relu24_backward_quantize));
  m.impl("squared_relu24_quantize", TORCH_BOX(&sparsetrain::squared_relu24_quantize));
}

// Not ops: what `python -m sparsetrain tune` and the reports ask of the library.
STABLE_TORCH_LIBRARY_FRAGMENT(sparsetrain, m) {
  m.def("_matmul24_tiles() -> Tensor");
  m.def("_matmul24_choice(Tensor problems, int multiprocessors) -> Tensor");
  m.def("_matmul24_expected(Tensor problems, int multiprocessors) -> Tensor");
  m.def("_matmul24_table(Tensor table) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CompositeExplicitAutograd, m) {
  m.impl("_matmul24_tiles", TORCH_BOX(&sparsetrain::matmul24_tiles));
  m.impl("_matmul24_choice", TORCH_BOX(&sparsetrain::matmul24_choice));
  m.impl("_matmul24_expected", TORCH_BOX(&sparsetrain::matmul24_expected));
  m.impl("_matmul24_table", TORCH_BOX(&sparsetrain::matmul24_table));
}
