// Which kernels a call would take, as the operator itself decides it. No torch here.
#pragma once

#include <string>

namespace denoise_ext::ops {

// While one exists, the operators that this thread calls choose their kernels and write down which, in
// place of running them. The last one made counts. Their tensors may be torch's meta tensors, which have no
// memory.
class Explanation {
 public:
  explicit Explanation(int compute_capability);  // 10 * major + minor of a GPU, or 0 for the CPU
  ~Explanation();
  Explanation(const Explanation&) = delete;

  // The thread's, or nullptr.
  static Explanation* current() { return current_; }

  int compute_capability() const { return compute_capability_; }
  const std::string& text() const { return text_; }

  void add(const std::string& lines);

 private:
  static thread_local Explanation* current_;
  int compute_capability_;
  Explanation* previous_;
  std::string text_;
};

// Writes down what is about to be computed, where a call takes several kernels.
inline void explain_step(const char* step) {
  if (Explanation* explanation = Explanation::current()) explanation->add(std::string(step) + ":");
}

}  // namespace denoise_ext::ops
