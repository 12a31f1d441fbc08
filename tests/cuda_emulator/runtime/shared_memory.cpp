// Dynamic shared memory, its arena, and asynchronous copies into it.
#include <cstring>

#include "machine.h"

namespace cuda_emulator {
namespace {

void land(PendingCopy& copy) {
  if (copy.landed) return;
  if (copy.valid) {
    std::memcpy(copy.destination, copy.source, 16);
  } else {
    std::memset(copy.destination, 0, 16);
  }
  copy.landed = true;
}

bool lands_at_once() {
  if (machine.options.seed <= 1) return machine.options.seed == 1;
  return random_number() % 2 == 0;
}

}  // namespace

bool is_shared(const void* address) {
  const auto begin = reinterpret_cast<const char*>(machine.shared);
  const AddressRange dynamic{begin, begin + machine.shared_physical_bytes};
  return dynamic.contains(address) || machine.static_shared.contains(address);
}

unsigned char* dynamic_shared_memory(SourceLine line) {
  if (machine.has_arena) fail("launch", "dynamic_shared() beside a SharedArena at " + text(line));
  return machine.shared;
}

void* take_shared(size_t offset, size_t count, size_t bytes, SourceLine line) {
  if (!machine.has_arena) {
    machine.has_arena = true;
    poison(machine.shared, machine.shared_physical_bytes);
  }
  if (offset + bytes > machine.shared_bytes)
    fail("out of bounds", "SharedArena: " + std::to_string(offset + bytes) +
                              " bytes taken, but the launch gave " + std::to_string(machine.shared_bytes) +
                              ", at " + text(line));
  if (count >= kArenaArrays)
    fail("launch", "SharedArena: more arrays than the emulator knows at " + text(line));
  unsigned char* const array = machine.shared + offset + (count + 1) * kArenaGap;
  unpoison(array, bytes);
  // Every thread takes the same arrays; the first one enters them in the list.
  if (count >= machine.arena_arrays.size()) {
    const auto begin = reinterpret_cast<const char*>(array);
    machine.arena_arrays.push_back({begin, begin + bytes});
  }
  return array;
}

void start_copy(void* destination, const void* source, bool valid, SourceLine line) {
  ++machine.statistics.copies;
  if (reinterpret_cast<uintptr_t>(destination) % 16 != 0)
    fail("misaligned", "cp.async: the destination is not a multiple of 16 at " + text(line));
  // Also of a source that is not read: PTX asks for it whatever the size.
  if (reinterpret_cast<uintptr_t>(source) % 16 != 0)
    fail("misaligned", "cp.async: the source is not a multiple of 16 at " + text(line));
  if (!is_shared(destination))
    fail("out of bounds", "cp.async: the destination is not in shared memory at " + text(line));
  if (valid) check_access(source, 16, Access::kRead, line);
  check_access(destination, 16, Access::kWrite, line);
  mark_copy_in_flight(destination, 16);
  Thread& thread = *machine.current;
  thread.copies.push_back(PendingCopy{static_cast<char*>(destination), static_cast<const char*>(source),
                                      valid, thread.copy_group, false});
  if (lands_at_once()) land(thread.copies.back());
}

void commit_copies() {
  ++machine.current->copy_group;
}

void wait_for_copies(uint32_t groups_in_flight) {
  Thread& thread = *machine.current;
  size_t kept = 0;
  for (PendingCopy& copy : thread.copies) {
    // A copy after the last commit belongs to no group yet, and no wait is for it.
    if (copy.group + groups_in_flight < thread.copy_group) {
      land(copy);
      mark_copy_complete(copy.destination, 16);
    } else {
      thread.copies[kept++] = copy;
    }
  }
  thread.copies.resize(kept);
}

}  // namespace cuda_emulator
