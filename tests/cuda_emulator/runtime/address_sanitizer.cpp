// The checker of the asan build: AddressSanitizer does the work, told of the emulator's stacks and of
// the gaps in shared memory.
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>

#include <cstring>

#include "machine.h"

namespace cuda_emulator {
namespace {

// The stack of the processor thread that launches, as the first fiber learns it.
const void* main_stack = nullptr;
size_t main_stack_bytes = 0;

}  // namespace

void check_access(const void* address, size_t bytes, Access access, SourceLine, bool) {
  void* const bad = __asan_region_is_poisoned(const_cast<void*>(address), bytes);
  if (bad == nullptr) return;
  __asan_report_error(__builtin_return_address(0), __builtin_frame_address(0), __builtin_frame_address(0),
                      bad, access != Access::kRead, bytes);
}

void begin_launch_checks() {}
void begin_block_checks() {}
void end_launch_checks() {}
void mark_copy_in_flight(const void*, size_t) {}
void mark_copy_complete(const void*, size_t) {}

void poison(const void* address, size_t bytes) {
  __asan_poison_memory_region(address, bytes);
}
void unpoison(const void* address, size_t bytes) {
  __asan_unpoison_memory_region(address, bytes);
}

void before_switch(const char* stack, size_t bytes, bool leaving, void** save) {
  if (stack == nullptr) {
    __sanitizer_start_switch_fiber(nullptr, main_stack, main_stack_bytes);
  } else {
    __sanitizer_start_switch_fiber(leaving ? nullptr : save, stack, bytes);
  }
}

void after_switch(void* saved) {
  __sanitizer_finish_switch_fiber(saved, nullptr, nullptr);
}

void after_first_switch() {
  const void* from = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(nullptr, &from, &bytes);
  if (machine.stacks.contains(from)) return;
  main_stack = from;
  main_stack_bytes = bytes;
}

void forget_memory() {}
void use_memory(void*, int, const int64_t*, const int64_t*, size_t, Use) {}

}  // namespace cuda_emulator
