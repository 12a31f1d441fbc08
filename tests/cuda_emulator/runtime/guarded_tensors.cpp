// Tensors lie apart, so that an access a little outside one is never taken for one of another tensor, or
// of shared memory, which is in the same heap. From the library's loading on, for all tensors of the CPU.
#include <c10/core/CPUAllocator.h>

#include <cstdlib>
#include <new>

namespace {

constexpr size_t kAlignment = 64;     // torch's own
constexpr size_t kGuard = 64 * 1024;  // several rows of the tests' images; mostly never touched

void release(void* data) {
  if (data == nullptr) return;
  c10::profiledCPUMemoryReporter().Delete(data);
  std::free(static_cast<char*>(data) - kGuard);
}

class GuardedTensors final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, nullptr, &release, c10::Device(c10::DeviceType::CPU)};
    const size_t whole = (bytes + 2 * kGuard + kAlignment - 1) / kAlignment * kAlignment;
    char* const memory = static_cast<char*>(std::aligned_alloc(kAlignment, whole));
    if (memory == nullptr) throw std::bad_alloc();
    c10::profiledCPUMemoryReporter().New(memory + kGuard, bytes);  // torch's profiler counts
    return {memory + kGuard, memory + kGuard, &release, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};

// Like torch's own, it lives as long as the process.
const bool registered = [] {
  c10::SetCPUAllocator(new GuardedTensors, /*priority=*/1);
  return true;
}();

}  // namespace
