#include "table.h"

#include <mutex>
#include <shared_mutex>

namespace sparsetrain {
namespace {

std::shared_mutex mutex;
std::vector<std::pair<Problem, Config>> entries;

}  // namespace

std::optional<Config> look_up(const Problem& problem) {
  std::shared_lock lock(mutex);
  for (const auto& [key, config] : entries) {
    if (key == problem) return config;
  }
  return std::nullopt;
}

void install(std::vector<std::pair<Problem, Config>> table) {
  std::unique_lock lock(mutex);
  entries = std::move(table);
}

}  // namespace sparsetrain
