// The kernels, one line each. Schemas and fakes are in sparsetrain/ops.
#include <torch/csrc/stable/library.h>

#include "add_mask24_.h"
#include "apply24.h"
#include "flips24.h"
#include "mask24.h"
#include "mvue24.h"
#include "random24.h"
#include "select24.h"
#include "soft_threshold24.h"
#include "sparsify24.h"
#include "squared_relu24.h"
#include "squared_relu24_backward.h"

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CUDA, m) {
  m.impl("add_mask24_", TORCH_BOX(&sparsetrain::add_mask24_));
  m.impl("apply24", TORCH_BOX(&sparsetrain::apply24));
  m.impl("flips24", TORCH_BOX(&sparsetrain::flips24));
  m.impl("mask24", TORCH_BOX(&sparsetrain::mask24));
  m.impl("mvue24", TORCH_BOX(&sparsetrain::mvue24));
  m.impl("random24", TORCH_BOX(&sparsetrain::random24));
  m.impl("select24", TORCH_BOX(&sparsetrain::select24));
  m.impl("soft_threshold24", TORCH_BOX(&sparsetrain::soft_threshold24));
  m.impl("sparsify24", TORCH_BOX(&sparsetrain::sparsify24));
  m.impl("squared_relu24", TORCH_BOX(&sparsetrain::squared_relu24));
  m.impl("squared_relu24_backward", TORCH_BOX(&sparsetrain::squared_relu24_backward));
}
