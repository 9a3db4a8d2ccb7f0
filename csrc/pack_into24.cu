#include "pack_into24.h"

#include <vector>

#include "common/pack_forms.h"

namespace sparsetrain {
namespace {

// Where a form goes; null if it is not wanted.
void* place_of(const char* name, const std::optional<Tensor>& form, ScalarType type,
               const std::vector<int64_t>& shape, const Tensor& x) {
  if (!form) return nullptr;
  bool fits = form->scalar_type() == type && form->dim() == static_cast<int64_t>(shape.size()) &&
              form->is_contiguous() && form->get_device_index() == x.get_device_index() &&
              reinterpret_cast<uintptr_t>(form->const_data_ptr()) % 16 == 0;
  for (size_t i = 0; fits && i < shape.size(); ++i) fits = form->size(i) == shape[i];
  STD_TORCH_CHECK(
      fits, name, ": ", torch::headeronly::toString(form->scalar_type()), " of shape ",
      shape_of(*form),
      " is no place for it: pass what empty_forms24(x) makes, contiguous, at an address that "
      "16 divides");
  return form->mutable_data_ptr();
}

}  // namespace

void pack_into24(const Tensor& x, const std::optional<Tensor>& mask, const std::string& rule,
                 const std::optional<Tensor>& values, const std::optional<Tensor>& meta,
                 const std::optional<Tensor>& values_t, const std::optional<Tensor>& meta_t,
                 const std::optional<Tensor>& dense) {
  check_groups("x", x);
  STD_TORCH_CHECK(values.has_value() == meta.has_value(), "meta: pass it with values");
  STD_TORCH_CHECK(values_t.has_value() == meta_t.has_value(), "meta_t: pass it with values_t");
  STD_TORCH_CHECK(mask || rule != "row" || !values_t,
                  "rule: \"row\" gives each orientation a mask of its own; use transposable, "
                  "transposable_l2 or greedy, or pack no columns");
  int64_t rows = x.size(0), columns = x.size(1), padded = padded_rows(rows);
  Bits bits{};
  std::optional<Tensor> given;
  if (mask) {
    given = check_bytes("mask", *mask, x, rows, ceil_div(columns, 8));
    bits.given = static_cast<const uint8_t*>(given->const_data_ptr());
  }
  const std::optional<Tensor>& first = values ? values : values_t ? values_t : dense;
  if (!first || x.numel() == 0) return;
  ScalarType type = first->scalar_type(), byte = ScalarType::Byte;
  Packed packed{};
  packed.values = place_of("values", values, type, {rows, columns / 2}, x);
  packed.meta = static_cast<uint8_t*>(
      place_of("meta", meta, byte, {ceil_div(columns, 64), ceil_div(rows, 64), 512}, x));
  packed.values_t = place_of("values_t", values_t, type, {columns, padded / 2}, x);
  packed.meta_t = static_cast<uint8_t*>(
      place_of("meta_t", meta_t, byte, {padded / 64, ceil_div(columns, 64), 512}, x));
  packed.dense = place_of("dense", dense, type, {rows, columns}, x);
  DeviceGuard guard(x.get_device_index());
  bool both = values && values_t && !dense;
  (both ? pack_both_forms : pack_some_forms)(x, type, packed, bits, rule);
}

}  // namespace sparsetrain
