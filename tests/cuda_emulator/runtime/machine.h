// The state of the launch that is running, and what the parts of the runtime share.
#pragma once

#include <emulated_primitives.h>

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "fiber.h"

namespace cuda_emulator {

struct AddressRange {
  const char *begin = nullptr, *end = nullptr;
  bool contains(const void* p, size_t bytes = 1) const {
    return p >= begin && static_cast<const char*>(p) + bytes <= end;
  }
};

// A cp.async that its thread has not waited for.
struct PendingCopy {
  char* destination;
  const char* source;
  bool valid;
  uint32_t group;
  bool landed;  // the data are there, but nobody may know yet
};

struct Thread {
  Context context;
  size_t stack;  // index into Machine::stacks
  uint3 index;
  int linear, lane, warp;
  bool exited, waiting;
  const char* waits_in;
  SourceLine waits_at;
  std::vector<PendingCopy> copies;
  uint32_t copy_group;  // groups committed so far
};

enum class Collective { kSyncwarp, kShuffle, kBallot, kLdmatrix, kMma };

// Lanes of a warp that have arrived at one collective operation, and the arguments each brought.
struct Rendezvous {
  Collective operation;
  uint32_t mask, arrived;
  void* arguments[32];
  SourceLine lines[32];
};

struct Warp {
  uint32_t live = 0;  // lanes that have not exited
  std::vector<Rendezvous> meetings;
  // What lane m did while synchronisations was below known[l][m] happened before what lane l does now.
  uint16_t synchronisations = 0;
  uint16_t known[32][32] = {};
};

struct Machine {
  Options options;
  Statistics statistics{};
  Stacks stacks;
  Context main;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::deque<int> ready;
  Thread* current = nullptr;  // nullptr: no kernel is running
  void (*body)(void*) = nullptr;
  void* closure = nullptr;
  std::unique_ptr<Error> error;
  bool checking = false;  // the runtime is at work: what it touches is not the kernel's doing
  uint64_t random_state = 1;
  int atomics_in_a_row = 0;

  // The block
  int alive = 0, at_barrier = 0;
  SourceLine barrier_line{};
  struct Votes {
    int any, all, count;
  } votes{}, outcome{};
  uint32_t barriers = 0;                // passed so far by this block
  uint32_t block = 0, first_block = 0;  // numbers that no two blocks of a process share

  // Dynamic shared memory; the gaps between arrays make it larger than what the launch asked for.
  unsigned char* shared = nullptr;
  size_t shared_bytes = 0, shared_physical_bytes = 0;
  bool has_arena = false;
  std::vector<AddressRange> arena_arrays;

  // This library: where static shared memory lies, and what is read-only or the runtime's own.
  uintptr_t module_base = 0;
  AddressRange module_memory, static_shared;
};
extern Machine machine;

constexpr size_t kArenaGap = 128, kArenaArrays = 32;

uint32_t random_number();

// scheduler.cpp
void start_block();                                    // runs the block's threads to their end
void wait_in(const char* operation, SourceLine line);  // until somebody calls wake()
void wake(Thread& thread);
void yield();
[[noreturn]] void fail(const char* kind, const std::string& message);

// warp.cpp
void meet(Collective operation, uint32_t mask, void* arguments, SourceLine line);
void leave_warp(Thread& thread);  // an exiting thread completes what waited for it

// tensor_core.cpp, called when all lanes have met
void run_ldmatrix(const Rendezvous& meeting);
void run_mma(const Rendezvous& meeting);

// The checker (shadow.cpp in the shadow build, address_sanitizer.cpp in the other)
enum class Access { kRead, kWrite, kAtomic };
// An access that the runtime makes in a kernel's name; for_warp: on behalf of every lane.
void check_access(const void* address, size_t bytes, Access access, SourceLine line, bool for_warp = false);
void begin_launch_checks();
void begin_block_checks();
void end_launch_checks();
void mark_copy_in_flight(const void* destination, size_t bytes);
void mark_copy_complete(const void* destination, size_t bytes);
void poison(const void* address, size_t bytes);
void unpoison(const void* address, size_t bytes);
// Around every switch of stacks; `leaving` is true when the present stack will not be used again.
void before_switch(const char* stack, size_t bytes, bool leaving, void** save);
void after_switch(void* saved);
void after_first_switch();

bool is_shared(const void* address);

// messages.cpp
std::string text(SourceLine line);
std::string text(const Thread& thread);
std::string thread_text(int linear);
std::string code_text(uintptr_t offset);  // the source lines of an instruction of this library

}  // namespace cuda_emulator
