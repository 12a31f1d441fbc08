// How kernels run on several threads without knowing torch: the ops layer hands in its thread pool.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <new>

namespace denoise_ext::cpu {

// Calls body(context, worker) for worker = 0 .. count - 1, concurrently where the pool allows.
struct Threads {
  int count;
  void (*run)(int count, void (*body)(void* context, int worker), void* context);
};

// 64-byte aligned scratch of one thread, kept from call to call: a megabyte fresh from the operating
// system costs more (a page fault per 4 KiB) than a small image's convolution.
class Scratch {
 public:
  // Uninitialised; what an earlier call returned is no longer valid.
  void* reserve(size_t bytes) {
    if (capacity_ < bytes) {
      storage_.reset();
      capacity_ = 0;
      storage_.reset(::operator new(bytes, kAlignment));
      capacity_ = bytes;
    }
    return storage_.get();
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Delete {
    void operator()(void* p) const { ::operator delete(p, kAlignment); }
  };
  std::unique_ptr<void, Delete> storage_;
  size_t capacity_ = 0;
};

// A buffer of the calling thread's that is larger goes back to the system after the call.
inline constexpr size_t kKeptBytes = 16 * 1024 * 1024;

inline Scratch& thread_scratch() {
  static thread_local Scratch scratch;
  return scratch;
}

// Runs f(block, next, scratch) for every block in [0, blocks); `next` is the block that the same thread
// will run after it, or blocks. Workers take blocks from a shared counter, so one slow core (a busy
// machine, a hyperthread) does not hold the others up. An exception of f (out of memory) stops the
// loop and is rethrown on the calling thread.
template <class F>
void for_each_block_ahead(const Threads& threads, int64_t blocks, const F& f) {
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
      for (int64_t block = c.next.fetch_add(1); block < c.blocks;) {
        const int64_t following = c.next.fetch_add(1);
        c.f(block, following < c.blocks ? following : c.blocks, thread_scratch());
        block = following;
      }
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

// Runs f(block, scratch) for every block in [0, blocks), as above.
template <class F>
void for_each_block(const Threads& threads, int64_t blocks, const F& f) {
  for_each_block_ahead(threads, blocks, [&](int64_t block, int64_t, Scratch& scratch) { f(block, scratch); });
}

}  // namespace denoise_ext::cpu
