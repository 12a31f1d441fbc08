// The checker of the shadow build: bounds, initialisation and order of every access.
//
// Two accesses are ordered when a barrier of the block, or a chain of __syncwarp calls within the warp,
// lies between them; shuffles and matrix instructions order nothing. So a race is found whatever the
// schedule was.
#include "shadow.h"

#include <cstring>

namespace cuda_emulator {
namespace {

std::vector<SourceLine> lines;

uint32_t line_index(SourceLine line) {
  for (size_t i = lines.size(); i-- > 0;)
    if (lines[i].line == line.line && lines[i].file == line.file) return static_cast<uint32_t>(i);
  lines.push_back(line);
  return static_cast<uint32_t>(lines.size() - 1);
}

const Warp& current_warp() {
  return machine.warps[static_cast<size_t>(machine.current->warp)];
}

bool has_one_bit(uint32_t x) {
  return (x & (x - 1)) == 0;
}

// Is there an access of the record's lanes that no __syncwarp orders before what `lanes` do now?
bool unordered_in_warp(const AccessRecord& record, uint32_t lanes) {
  const Warp& warp = current_warp();
  for (uint32_t others = record.lanes; others != 0; others &= others - 1) {
    const int other = __builtin_ctz(others);
    for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
      const int lane = __builtin_ctz(rest);
      if (lane != other && record.synchronisations >= warp.known[lane][other]) return true;
    }
  }
  return false;
}

// One pass over the bytes of an access.
class Check {
 public:
  Check(const CheckedAccess& access, const Region& region)
      : a_(access),
        shared_(region.shared),
        lanes_(access.for_warp ? 0xffffffffu : 1u << machine.current->lane) {}

  void run(Cell* cell) const {
    for (const Cell* const end = cell + a_.bytes; cell != end; ++cell) {
      check_state(cell->write);
      if (a_.access == Access::kRead) {
        if (unordered(cell->write)) fail_race("read after write", cell->write);
        record_read(cell->read);
      } else {
        write(*cell);
      }
    }
  }

 private:
  bool is_initialised(const AccessRecord& write) const {
    return shared_ ? write.block == machine.block : (write.flags & kInitialised) != 0;
  }

  void check_state(const AccessRecord& write) const {
    if (write.flags & kOutside) fail_outside(a_, "between the elements of a tensor");
    if ((write.flags & kInFlight) && write.block == machine.block)
      fail("copy in flight", std::string(a_.access == Access::kRead ? "read" : "write") + " at " + here() +
                                 " of shared memory that a cp.async has not finished writing\n  started at " +
                                 place_text(write.code, write.flags) + " by " + thread_text(write.thread));
    if (a_.access != Access::kWrite && !is_initialised(write))
      fail("uninitialised", std::string(a_.access == Access::kRead ? "read" : "atomic operation") + " at " +
                                here() + " of " +
                                (shared_ ? "shared memory that this block has not written"
                                         : "global memory that nothing has written"));
  }

  bool unordered(const AccessRecord& record) const {
    if (record.block != machine.block) return !shared_ && record.block >= machine.first_block;
    if (record.barriers != machine.barriers) return false;
    if (record.thread / 32 != machine.current->linear / 32 || (record.flags & kSeveralWarps)) return true;
    if (record.lanes == lanes_ && !a_.for_warp) return false;
    return unordered_in_warp(record, lanes_);
  }

  // Keeps what later writes must be ordered after: of reads that are not ordered, all.
  void record_read(AccessRecord& read) const {
    uint16_t flags = a_.flags;
    uint32_t lanes = lanes_;
    const bool this_block = read.block == machine.block;
    if (!shared_ && read.block >= machine.first_block && (!this_block || (read.flags & kSeveralBlocks)))
      flags |= kSeveralBlocks;
    if (this_block && read.barriers == machine.barriers) {
      if (read.flags & kSeveralWarps) return;
      if (read.thread / 32 != machine.current->linear / 32) {
        flags |= kSeveralWarps;
      } else if (read.lanes == lanes_ || unordered(read)) {
        lanes |= read.lanes;
      }
    }
    read = record(flags, lanes);
  }

  void write(Cell& cell) const {
    const bool atomics = a_.access == Access::kAtomic && (cell.write.flags & kWasAtomic);
    if (!atomics && unordered(cell.write)) fail_race("write after write", cell.write);
    const bool other_blocks =
        !shared_ && cell.read.block >= machine.first_block && (cell.read.flags & kSeveralBlocks);
    if (other_blocks || unordered(cell.read)) fail_race("write after read", cell.read);
    const uint16_t atomic = a_.access == Access::kAtomic ? kWasAtomic : 0;
    cell.write = record(static_cast<uint16_t>(a_.flags | kInitialised | atomic), lanes_);
  }

  AccessRecord record(uint16_t flags, uint32_t lanes) const {
    return {machine.block,
            a_.code,
            lanes,
            machine.barriers,
            current_warp().synchronisations,
            static_cast<uint16_t>(machine.current->linear),
            flags};
  }

  std::string here() const { return place_text(a_.code, a_.flags); }

  [[noreturn]] void fail_race(const char* what, const AccessRecord& other) const {
    std::string by = "another block";
    if (other.block == machine.block) {
      const bool several = (other.flags & kSeveralWarps) || !has_one_bit(other.lanes);
      by = (several ? "several threads, among them " : "") + thread_text(other.thread);
    }
    fail("race", std::string(what) + " on " + (shared_ ? "shared" : "global") +
                     " memory with nothing to order them\n  now     at " + here() + " by " +
                     text(*machine.current) + "\n  earlier at " + place_text(other.code, other.flags) +
                     " by " + by);
  }

  const CheckedAccess& a_;
  const bool shared_;
  const uint32_t lanes_;
};

bool in_arena_array(const CheckedAccess& a) {
  for (const AddressRange& array : machine.arena_arrays)
    if (array.contains(a.address, a.bytes)) return true;
  return false;
}

}  // namespace

std::string place_text(uint32_t code, uint16_t flags) {
  return flags & kCodeIsLine ? text(lines[code]) : code_text(code);
}

void check(const CheckedAccess& a) {
  ++machine.statistics.checked_accesses;
  Region* const region = find_region(a.address);
  if (region == nullptr) {
    if (machine.stacks.contains(a.address)) return;  // a local variable
    if (a.access == Access::kRead && machine.module_memory.contains(a.address, a.bytes)) return;  // constants
    fail_outside(a, "outside any memory of this launch");
  }
  if (!region->range.contains(a.address, a.bytes)) fail_outside(a, "outside any memory of this launch");
  if (region == &dynamic_region()) {
    const bool within = a.address + a.bytes <= region->range.begin + machine.shared_bytes;
    if (machine.has_arena ? !in_arena_array(a) : !within)
      fail_outside(a, "outside every array of dynamic shared memory");
  }
  if (a.access != Access::kRead && !region->writable) fail_outside(a, "to a tensor that is only read");
  Check(a, *region).run(region->cell(a.address));
}

void check_access(const void* address, size_t bytes, Access access, SourceLine line, bool for_warp) {
  check({static_cast<const char*>(address), bytes, access, line_index(line), kCodeIsLine, for_warp});
}

void mark_copy_in_flight(const void* destination, size_t bytes) {
  Cell* const cells = find_region(static_cast<const char*>(destination))->cell(destination);
  for (size_t i = 0; i < bytes; ++i) cells[i].write.flags |= kInFlight;
}

// The copy counts as a write that the waiting thread has just made.
void mark_copy_complete(const void* destination, size_t bytes) {
  Cell* const cells = find_region(static_cast<const char*>(destination))->cell(destination);
  for (size_t i = 0; i < bytes; ++i) {
    AccessRecord& write = cells[i].write;
    write.flags &= static_cast<uint16_t>(~kInFlight);
    write.barriers = machine.barriers;
    write.synchronisations = current_warp().synchronisations;
  }
}

// AddressSanitizer's part; the shadow knows stacks and gaps by itself.
void poison(const void*, size_t) {}
void unpoison(const void*, size_t) {}
void before_switch(const char*, size_t, bool, void**) {}
void after_switch(void*) {}
void after_first_switch() {}

namespace {

// An access of a kernel, as the compiler reports it.
void observe(const void* address, size_t bytes, Access access, const void* return_address) {
  if (machine.current == nullptr || machine.checking) return;  // host code in a kernel file, or the runtime's
  const auto p = static_cast<const char*>(address);
  if (machine.stacks.contains(p)) return;
  const auto builtins = reinterpret_cast<const char*>(&builtin);
  if (p >= builtins && p < builtins + sizeof builtin) return;
  const auto code = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(return_address) - machine.module_base);
  machine.checking = true;
  check({p, bytes, access, code, 0, false});
  machine.checking = false;
  if (machine.options.preempt != 0 && random_number() % machine.options.preempt == 0) yield();
}

}  // namespace
}  // namespace cuda_emulator

// The compiler calls these under -fsanitize=thread; libtsan is not linked.
#define CUDA_EMULATOR_HOOK(name, bytes, access)                                                         \
  extern "C" void __tsan_##name##bytes(void* address) {                                                 \
    cuda_emulator::observe(address, bytes, cuda_emulator::Access::access, __builtin_return_address(0)); \
  }
#define CUDA_EMULATOR_HOOKS(bytes)                   \
  CUDA_EMULATOR_HOOK(read, bytes, kRead)             \
  CUDA_EMULATOR_HOOK(write, bytes, kWrite)           \
  CUDA_EMULATOR_HOOK(unaligned_read, bytes, kRead)   \
  CUDA_EMULATOR_HOOK(unaligned_write, bytes, kWrite) \
  CUDA_EMULATOR_HOOK(volatile_read, bytes, kRead)    \
  CUDA_EMULATOR_HOOK(volatile_write, bytes, kWrite)
CUDA_EMULATOR_HOOKS(1)
CUDA_EMULATOR_HOOKS(2)
CUDA_EMULATOR_HOOKS(4)
CUDA_EMULATOR_HOOKS(8)
CUDA_EMULATOR_HOOKS(16)

extern "C" {
void __tsan_read_range(void* address, size_t bytes) {
  cuda_emulator::observe(address, bytes, cuda_emulator::Access::kRead, __builtin_return_address(0));
}
void __tsan_write_range(void* address, size_t bytes) {
  cuda_emulator::observe(address, bytes, cuda_emulator::Access::kWrite, __builtin_return_address(0));
}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
}
