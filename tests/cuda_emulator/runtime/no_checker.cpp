// The checker of the coverage build: none, for the counters' sake.
#include "machine.h"

namespace cuda_emulator {

void check_access(const void*, size_t, Access, SourceLine, bool) {}
void begin_launch_checks() {}
void begin_block_checks() {}
void end_launch_checks() {}
void mark_copy_in_flight(const void*, size_t) {}
void mark_copy_complete(const void*, size_t) {}
void poison(const void*, size_t) {}
void unpoison(const void*, size_t) {}
void before_switch(const char*, size_t, bool, void**) {}
void after_switch(void*) {}
void after_first_switch() {}
void forget_memory() {}
void use_memory(void*, int, const int64_t*, const int64_t*, size_t, Use) {}

}  // namespace cuda_emulator
