// The host's side of the emulator: settings, memory that kernels may touch, starting a grid.
//
// Threads of a block are fibers of one processor thread and blocks run one after another. The shadow
// build follows every access to shared and global memory; the asan build leaves that to
// AddressSanitizer. See README.md.
#pragma once

#include <vector_types.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace cuda_emulator {

// A line of a kernel file. As the default value of an argument it is the caller's line.
struct SourceLine {
  const char* file;
  int line;
};
#define CUDA_EMULATOR_CALLER cuda_emulator::SourceLine caller = {__builtin_FILE(), __builtin_LINE()}

// A fault of a kernel. The kinds: "race", "uninitialised", "out of bounds", "copy in flight",
// "misaligned", "divergent barrier", "divergent warp", "bad mask", "bad shuffle", "deadlock", "trap",
// "undefined behaviour" and "launch".
struct Error : std::runtime_error {
  Error(const std::string& kind, const std::string& message)
      : std::runtime_error("CUDA emulator: " + kind + ": " + message), kind(kind) {}
  std::string kind;
};

struct Options {
  // The order of threads (where several could go on) and of blocks: 0 ascending, 1 descending, else
  // random. Also whether the data of an asynchronous copy land at once, at the wait, or either.
  uint32_t seed = 0;
  // Shadow build: besides, another thread takes over at one in so many checked accesses; 0: never.
  uint32_t preempt = 0;
  size_t shared_limit = 227 * 1024;  // dynamic shared memory of a block, bytes
};

struct Statistics {
  uint64_t blocks, threads, switches, barriers, collectives, matrix_multiplies, copies, checked_accesses;
  // ldmatrix reads a matrix in one wavefront unless two of its rows lie in the same banks.
  uint64_t matrices_loaded, matrix_wavefronts;
};

Options& options();
Statistics& statistics();

// Forgets the memory of earlier calls; addresses are reused by allocators.
void forget_memory();

// What kernels do with memory. kRead: read what the host or an earlier kernel wrote; kUpdate: write it
// too; kFill: write it first - it is filled with NaNs, and what is read unwritten is a fault.
enum class Use { kRead, kUpdate, kFill };

// Lets kernels touch the elements of a strided array until forget_memory().
void use_memory(void* data, int dims, const int64_t* sizes, const int64_t* strides, size_t element_bytes,
                Use use);

// Runs body(closure) once for every thread of the grid. Throws Error.
void run_grid(dim3 grid, dim3 block, size_t shared_bytes, void (*body)(void*), void* closure);

}  // namespace cuda_emulator
