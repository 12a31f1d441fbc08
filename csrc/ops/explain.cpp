#include "explain.h"

namespace denoise_ext::ops {

thread_local Explanation* Explanation::current_ = nullptr;

Explanation::Explanation(int compute_capability)
    : compute_capability_(compute_capability), previous_(current_) {
  current_ = this;
}

Explanation::~Explanation() {
  current_ = previous_;
}

void Explanation::add(const std::string& lines) {
  text_ += (text_.empty() ? "" : "\n") + lines;
}

}  // namespace denoise_ext::ops
