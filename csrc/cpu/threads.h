// How kernels run on several threads without knowing torch: the ops layer hands in its thread pool.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>
#include <vector>

namespace denoise_ext::cpu {

// Calls body(context, worker) for worker = 0 .. count - 1, concurrently where the pool allows.
struct Threads {
  int count;
  void (*run)(int count, void (*body)(void* context, int worker), void* context);
};

// 64-byte aligned scratch of one worker, reused from block to block.
class Scratch {
 public:
  void* reserve(size_t bytes) {
    constexpr size_t kAlignment = 64;
    if (storage_.size() < bytes + kAlignment) storage_.resize(bytes + kAlignment);
    const auto address = reinterpret_cast<uintptr_t>(storage_.data());
    return reinterpret_cast<void*>((address + kAlignment - 1) / kAlignment * kAlignment);
  }

 private:
  std::vector<unsigned char> storage_;
};

// Runs f(block, scratch) for every block in [0, blocks). Workers take the next block from a shared
// counter, so one slow core (a busy machine, a hyperthread) does not hold the others up. An
// exception of f (out of memory) stops the loop and is rethrown on the calling thread.
template <class F>
void for_each_block(const Threads& threads, int64_t blocks, const F& f) {
  struct Context {
    Context(const F& function, int64_t count) : f(function), blocks(count) {}
    const F& f;
    const int64_t blocks;
    std::atomic<int64_t> next{0};
    std::mutex mutex;
    std::exception_ptr error;
  } context(f, blocks);
  const auto body = [](void* opaque, int) {
    auto& c = *static_cast<Context*>(opaque);
    try {
      Scratch scratch;
      for (int64_t block; (block = c.next.fetch_add(1)) < c.blocks;) c.f(block, scratch);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(c.mutex);
      c.error = std::current_exception();
      c.next = c.blocks;
    }
  };
  const int workers = blocks < threads.count ? static_cast<int>(blocks) : threads.count;
  if (workers <= 1) {
    body(&context, 0);
  } else {
    threads.run(workers, body, &context);
  }
  if (context.error) std::rethrow_exception(context.error);
}

}  // namespace denoise_ext::cpu
