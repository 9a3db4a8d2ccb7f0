// The process's table of measured configs, of one kind of GPU; empty until one is installed.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "choose.h"

namespace sparsetrain {

std::optional<Config> look_up(const Problem& problem);
void install(std::vector<std::pair<Problem, Config>> table);

}  // namespace sparsetrain
