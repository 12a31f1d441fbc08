#include "tf32.h"

#include <atomic>

namespace denoise_ext::ops {
namespace {

std::atomic<bool (*)()> current_query = nullptr;

}  // namespace

void set_tf32_query(bool (*query)()) {
  current_query = query;
}

bool tf32_allowed() {
  const auto query = current_query.load();
  return query != nullptr && query();
}

}  // namespace denoise_ext::ops
