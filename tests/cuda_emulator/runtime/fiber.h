// Contexts that one processor thread switches between, each with a stack of its own.
#pragma once

#include <cstddef>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace cuda_emulator {

class Context {
 public:
  // Makes the context start `entry`, which must not return, on the given stack.
  void prepare(char* stack, size_t bytes, void (*entry)());
  // Goes on in `to`; returns when something switches back to `from`.
  static void swap(Context& from, Context& to);

 private:
#if defined(__x86_64__)
  void* stack_pointer_ = nullptr;
#else
  ucontext_t context_;
#endif
};

// One stack per thread of a block, kept from launch to launch; a page below each faults.
class Stacks {
 public:
  static constexpr size_t kBytes = 256 * 1024, kGuard = 4096;

  void reserve(size_t count);
  char* begin(size_t i) const { return memory_ + i * kBytes + kGuard; }
  static constexpr size_t usable_bytes() { return kBytes - kGuard; }
  bool contains(const void* p) const {
    return p >= memory_ && p < static_cast<const void*>(memory_ + count_ * kBytes);
  }

 private:
  char* memory_ = nullptr;
  size_t count_ = 0;
};

}  // namespace cuda_emulator
