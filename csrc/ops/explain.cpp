#include "explain.h"

namespace denoise_ext::ops {

thread_local Explanation* Explanation::current_ = nullptr;

Explanation::Explanation(int compute_capability) : compute_capability_(compute_capability) {
  current_ = this;
}

Explanation::~Explanation() {
  current_ = nullptr;
}

void Explanation::add(const std::string& lines) {
  text_ += (text_.empty() ? "" : "\n") + lines;
}

}  // namespace denoise_ext::ops
