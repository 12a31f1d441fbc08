#include "variants.h"

#include <cstring>

#include "../params/preferred.h"

namespace denoise_ext::cuda {
namespace {

thread_local char preferred[kPreferredBytes] = "";

// Whether `name` is one of the words of `preferred`.
bool is_preferred(const char* name) {
  const size_t length = std::strlen(name);
  for (const char* at = std::strstr(preferred, name); at != nullptr; at = std::strstr(at + 1, name)) {
    const bool begins = at == preferred || at[-1] == ' ';
    if (begins && (at[length] == '\0' || at[length] == ' ')) return true;
  }
  return false;
}

}  // namespace

bool prefer_variants(const char* names) {
  const size_t length = names == nullptr ? 0 : std::strlen(names);
  if (length >= kPreferredBytes) return false;
  std::memcpy(preferred, length == 0 ? "" : names, length + 1);
  return true;
}

const char* preferred_variants() {
  return preferred;
}

double compared_cost(const char* variant, double cost) {
  return preferred[0] != '\0' && is_preferred(variant) ? -1.0 : cost;
}

}  // namespace denoise_ext::cuda
