// Ops of a 2:4 step that only allocate their results, so that a CPU's time is that of what calls
// them. Shapes are those of sparsetrain/ops; numbers mean nothing.
#include <torch/extension.h>
#include <torch/library.h>

using at::Tensor;
using std::optional;

namespace {

int64_t up(int64_t rows, int64_t to) { return (rows + to - 1) / to; }

Tensor select24(const Tensor& x, c10::string_view) {
  return at::empty({x.size(0), up(x.size(1), 8)}, x.options().dtype(at::kByte));
}

Tensor flips24(const Tensor& mask, const Tensor&) {
  return at::zeros({}, mask.options().dtype(at::kLong));
}

Tensor column_sums(const Tensor& x) {
  return at::zeros({x.size(1)}, x.options().dtype(at::kFloat));
}

void add_mask24_(Tensor, const Tensor&, const Tensor&, double, double, const optional<Tensor>&) {}

void pack_into24(const Tensor&, const optional<Tensor>&, c10::string_view, optional<Tensor>,
                 optional<Tensor>, optional<Tensor>, optional<Tensor>, optional<Tensor>) {}

Tensor matmul24(const Tensor& values, const Tensor&, const Tensor& b, const optional<Tensor>&,
                bool transposed, optional<at::ScalarType> dtype, c10::string_view,
                const optional<Tensor>&) {
  auto options = values.options().dtype(dtype.value_or(values.scalar_type()));
  int64_t rows = values.size(0), columns = b.size(1);
  return transposed ? at::zeros({columns, rows}, options) : at::zeros({rows, columns}, options);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> squared_relu24(const Tensor& z, c10::string_view) {
  int64_t rows = z.size(0), columns = z.size(1), padded = 128 * up(rows, 128);
  auto bytes = z.options().dtype(at::kByte);
  return {at::empty({rows, columns / 2}, z.options()),
          at::empty({up(columns, 64), up(rows, 64), 512}, bytes),
          at::empty({columns, padded / 2}, z.options()),
          at::empty({up(padded, 64), up(columns, 64), 512}, bytes)};
}

std::tuple<Tensor, Tensor, Tensor> squared_relu24_backward(
    const Tensor& gradient, const Tensor& values, const Tensor&, const Tensor& across,
    const Tensor&, c10::string_view) {
  return {at::empty_like(values), at::empty_like(across), column_sums(gradient)};
}

}  // namespace

TORCH_LIBRARY_IMPL(sparsetrain, CPU, m) {
  m.impl("select24", select24);
  m.impl("flips24", flips24);
  m.impl("column_sums", column_sums);
  m.impl("add_mask24_", add_mask24_);
  m.impl("pack_into24", pack_into24);
  m.impl("matmul24", matmul24);
  m.impl("squared_relu24", squared_relu24);
  m.impl("squared_relu24_backward", squared_relu24_backward);
}
