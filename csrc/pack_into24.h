#pragma once

#include "common/host.h"

namespace sparsetrain {

// Writes what x is under its mask, or under one that the rule chooses, in every form that there is:
// packed along its rows, along its columns, dense. All in the type of the values.
void pack_into24(const Tensor& x, const std::optional<Tensor>& mask, const std::string& rule,
                 const std::optional<Tensor>& values, const std::optional<Tensor>& meta,
                 const std::optional<Tensor>& values_t, const std::optional<Tensor>& meta_t,
                 const std::optional<Tensor>& dense);

}  // namespace sparsetrain
