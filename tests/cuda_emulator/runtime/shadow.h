// What the shadow build remembers about every byte of shared and global memory.
#pragma once

#include <vector>

#include "machine.h"

namespace cuda_emulator {

// The last access of one kind to a byte.
struct AccessRecord {
  uint32_t block;             // Machine::block; 0: none in this process
  uint32_t code;              // where: an offset into this library, or an index into shadow's list of lines
  uint32_t lanes;             // which lanes of `thread`'s warp
  uint32_t barriers;          // Machine::barriers then
  uint16_t synchronisations;  // Warp::synchronisations then
  uint16_t thread;
  uint16_t flags;
};
enum AccessFlags : uint16_t {
  kInitialised = 1,     // (of writes) the byte has a value
  kInFlight = 2,        // (of writes) a cp.async that is not complete
  kWasAtomic = 4,       // (of writes)
  kSeveralWarps = 8,    // (of reads) by warps besides `thread`'s since the last barrier
  kSeveralBlocks = 16,  // (of reads) by blocks besides `block` in this launch
  kCodeIsLine = 32,     // `code` is an index into the list of lines
  kOutside = 64,        // (of writes) not an element of any tensor: in a gap between strides
};
struct Cell {
  AccessRecord write, read;
};

struct Region {
  AddressRange range;
  bool shared = false;
  bool writable = false;
  std::vector<Cell> cells;  // one per byte

  Cell* cell(const void* p) { return &cells[static_cast<size_t>(static_cast<const char*>(p) - range.begin)]; }
};

// An access as the checks see it.
struct CheckedAccess {
  const char* address;
  size_t bytes;
  Access access;
  uint32_t code;
  uint16_t flags;  // kCodeIsLine or 0
  bool for_warp;
};

// shadow_memory.cpp
Region* find_region(const char* address);
Region& dynamic_region();
[[noreturn]] void fail_outside(const CheckedAccess& access, const char* what);

// shadow.cpp
void check(const CheckedAccess& access);
std::string place_text(uint32_t code, uint16_t flags);

}  // namespace cuda_emulator
