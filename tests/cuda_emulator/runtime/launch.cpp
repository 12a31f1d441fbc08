// Running a grid, block after block.
#include <link.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <numeric>

#include "machine.h"

namespace cuda_emulator {
namespace {

#if defined(CUDA_EMULATOR_SHADOW)
// Touched before a launch, so that a library loaded late has its thread-local block.
thread_local volatile char thread_local_anchor;
#endif

int find_module(dl_phdr_info* module, size_t, void*) {
  AddressRange memory{reinterpret_cast<const char*>(UINTPTR_MAX), nullptr}, statics;
  for (int i = 0; i < module->dlpi_phnum; ++i) {
    const auto& header = module->dlpi_phdr[i];
    if (header.p_type == PT_LOAD) {
      const auto begin = reinterpret_cast<const char*>(module->dlpi_addr + header.p_vaddr);
      memory.begin = std::min(memory.begin, begin);
      memory.end = std::max(memory.end, begin + header.p_memsz);
    } else if (header.p_type == PT_TLS && module->dlpi_tls_data != nullptr) {
      const auto begin = static_cast<const char*>(module->dlpi_tls_data);
      statics = {begin, begin + header.p_memsz};
    }
  }
  if (!memory.contains(&machine)) return 0;
  machine.module_base = module->dlpi_addr;
  machine.module_memory = memory;
#if defined(CUDA_EMULATOR_SHADOW)
  machine.static_shared = statics;
#else
  machine.static_shared = memory;  // they are plain statics of this library
#endif
  return 1;
}

void check_launch(dim3 grid, dim3 block, size_t shared_bytes) {
  const auto text3 = [](dim3 d) {
    return std::to_string(d.x) + "x" + std::to_string(d.y) + "x" + std::to_string(d.z);
  };
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads < 1 || threads > 1024 || block.z > 64)
    throw Error("launch", "a block of " + text3(block) + " threads");
  if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    throw Error("launch", "a grid of " + text3(grid) + " blocks");
  if (shared_bytes > machine.options.shared_limit)
    throw Error("launch", std::to_string(shared_bytes) +
                              " bytes of dynamic shared memory, of which a block has " +
                              std::to_string(machine.options.shared_limit));
}

std::vector<uint64_t> block_order(uint64_t count) {
  std::vector<uint64_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  if (machine.options.seed == 1) std::reverse(order.begin(), order.end());
  if (machine.options.seed > 1)
    for (uint64_t i = count; i > 1; --i) std::swap(order[i - 1], order[random_number() % i]);
  return order;
}

void prepare_threads(int count) {
  machine.threads.resize(static_cast<size_t>(count));
  machine.warps.assign(static_cast<size_t>(count + 31) / 32, Warp{});
  const int width = static_cast<int>(blockDim.x), height = static_cast<int>(blockDim.y);
  for (int i = 0; i < count; ++i) {
    Thread& thread = machine.threads[static_cast<size_t>(i)];
    thread.stack = static_cast<size_t>(i);
    thread.index = {static_cast<unsigned>(i % width), static_cast<unsigned>(i / width % height),
                    static_cast<unsigned>(i / width / height)};
    thread.linear = i;
    thread.lane = i % 32;
    thread.warp = i / 32;
    thread.exited = thread.waiting = false;
    thread.copies.clear();
    thread.copy_group = 0;
    machine.warps[static_cast<size_t>(thread.warp)].live |= 1u << thread.lane;
  }
}

void run_block(uint64_t index, int threads) {
  ++machine.block;
  ++machine.statistics.blocks;
  machine.statistics.threads += static_cast<uint64_t>(threads);
  blockIdx = {static_cast<unsigned>(index % gridDim.x), static_cast<unsigned>(index / gridDim.x % gridDim.y),
              static_cast<unsigned>(index / gridDim.x / gridDim.y)};
  prepare_threads(threads);
  machine.alive = threads;
  machine.at_barrier = 0;
  machine.barriers = 0;
  machine.votes = {0, 1, 0};
  machine.ready.clear();
  machine.has_arena = false;
  machine.arena_arrays.clear();
  unpoison(machine.shared, machine.shared_physical_bytes);
  std::memset(machine.shared, 0xff, machine.shared_physical_bytes);  // NaN in every floating-point type
  poison(machine.shared + machine.shared_bytes, machine.shared_physical_bytes - machine.shared_bytes);
  begin_block_checks();
  start_block();
  machine.current = nullptr;
}

}  // namespace

Options& options() {
  return machine.options;
}
Statistics& statistics() {
  return machine.statistics;
}

void run_grid(dim3 grid, dim3 block, size_t shared_bytes, void (*body)(void*), void* closure) {
  static std::mutex one_launch;  // autograd may call from a thread of its own
  const std::lock_guard<std::mutex> lock(one_launch);
  check_launch(grid, block, shared_bytes);
#if defined(CUDA_EMULATOR_SHADOW)
  thread_local_anchor = 1;
#endif
  dl_iterate_phdr(find_module, nullptr);
  const int threads = static_cast<int>(block.x * block.y * block.z);
  machine.stacks.reserve(static_cast<size_t>(threads));
  blockDim = block;
  gridDim = grid;
  machine.body = body;
  machine.closure = closure;
  machine.random_state = 0x9e3779b97f4a7c15u + machine.options.seed;
  machine.shared_bytes = shared_bytes;
  constexpr size_t kAlignment = 1024;
  const size_t gaps = (kArenaArrays + 1) * kArenaGap;
  machine.shared_physical_bytes = (shared_bytes + gaps + kAlignment - 1) / kAlignment * kAlignment;
  const auto release = [](unsigned char* memory) {
    unpoison(memory, machine.shared_physical_bytes);
    std::free(memory);
    machine.shared = nullptr;
  };
  const std::unique_ptr<unsigned char, decltype(release)> memory(
      static_cast<unsigned char*>(std::aligned_alloc(kAlignment, machine.shared_physical_bytes)), release);
  if (memory == nullptr) throw std::bad_alloc();
  machine.shared = memory.get();
  machine.error.reset();
  machine.checking = false;
  machine.first_block = machine.block + 1;
  begin_launch_checks();
  for (const uint64_t index : block_order(uint64_t{grid.x} * grid.y * grid.z)) {
    run_block(index, threads);
    if (machine.error != nullptr) break;
  }
  end_launch_checks();
  if (machine.error != nullptr) throw Error(*machine.error);
}

}  // namespace cuda_emulator
