// What nvcc knows by itself: the keywords, threadIdx and its like, barriers, shuffles, votes, atomics.
#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "emulator.h"

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __launch_bounds__
#undef __grid_constant__
#define __global__
#define __device__
#define __host__
#define __constant__
#define __launch_bounds__(...)
#define __grid_constant__
#if defined(CUDA_EMULATOR_SHADOW)
// The thread-local block of this library then is the static shared memory of a launch, whose bounds
// the runtime can find.
#define __shared__ static thread_local
#else
// AddressSanitizer puts guards round plain statics only.
#define __shared__ static
#endif

// Emulator code that is inlined into kernels; its own accesses are not the kernel's.
#define CUDA_EMULATOR_UNCHECKED __attribute__((no_sanitize("thread")))

namespace cuda_emulator {

// Set at every switch to another thread. One object, so that the checker knows its address.
struct BuiltinVariables {
  uint3 thread_index, block_index;
  dim3 block_size, grid_size;
};
extern BuiltinVariables builtin;

void synchronise_block(SourceLine caller);
int block_vote_any(int predicate, SourceLine caller);
int block_vote_all(int predicate, SourceLine caller);
int block_vote_count(int predicate, SourceLine caller);
void synchronise_warp(uint32_t mask, SourceLine caller);
uint32_t ballot(uint32_t mask, int predicate, SourceLine caller);
enum class Shuffle { kIndex, kUp, kDown, kXor };
uint64_t shuffle(uint64_t value, uint32_t mask, Shuffle mode, int argument, int width, SourceLine caller);
// Before an atomic operation: checks the access, and now and then lets the other threads go on, for one
// of which a loop on the atomic may be waiting.
void before_atomic(const void* address, size_t bytes, SourceLine caller);
[[noreturn]] void trap(SourceLine caller);

template <class T>
CUDA_EMULATOR_UNCHECKED T shuffle_value(T value, uint32_t mask, Shuffle mode, int argument, int width,
                                        SourceLine caller) {
  static_assert(sizeof(T) <= sizeof(uint64_t) && std::is_trivially_copyable_v<T>);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = shuffle(bits, mask, mode, argument, width, caller);
  std::memcpy(static_cast<void*>(&value), &bits, sizeof(T));
  return value;
}

template <class T, class F>
CUDA_EMULATOR_UNCHECKED T atomic_update(T* address, F update, SourceLine caller) {
  before_atomic(address, sizeof(T), caller);
  const T old = *address;
  *address = update(old);
  return old;
}

}  // namespace cuda_emulator

#define threadIdx cuda_emulator::builtin.thread_index
#define blockIdx cuda_emulator::builtin.block_index
#define blockDim cuda_emulator::builtin.block_size
#define gridDim cuda_emulator::builtin.grid_size
constexpr int warpSize = 32;

// ---- Barriers and votes ----

inline CUDA_EMULATOR_UNCHECKED void __syncthreads(CUDA_EMULATOR_CALLER) {
  cuda_emulator::synchronise_block(caller);
}
inline CUDA_EMULATOR_UNCHECKED int __syncthreads_or(int predicate, CUDA_EMULATOR_CALLER) {
  return cuda_emulator::block_vote_any(predicate, caller);
}
inline CUDA_EMULATOR_UNCHECKED int __syncthreads_and(int predicate, CUDA_EMULATOR_CALLER) {
  return cuda_emulator::block_vote_all(predicate, caller);
}
inline CUDA_EMULATOR_UNCHECKED int __syncthreads_count(int predicate, CUDA_EMULATOR_CALLER) {
  return cuda_emulator::block_vote_count(predicate, caller);
}
inline CUDA_EMULATOR_UNCHECKED void __syncwarp(unsigned mask = 0xffffffffu, CUDA_EMULATOR_CALLER) {
  cuda_emulator::synchronise_warp(mask, caller);
}
inline CUDA_EMULATOR_UNCHECKED unsigned __ballot_sync(unsigned mask, int predicate, CUDA_EMULATOR_CALLER) {
  return cuda_emulator::ballot(mask, predicate, caller);
}
inline CUDA_EMULATOR_UNCHECKED int __any_sync(unsigned mask, int predicate, CUDA_EMULATOR_CALLER) {
  return cuda_emulator::ballot(mask, predicate, caller) != 0;
}
inline CUDA_EMULATOR_UNCHECKED int __all_sync(unsigned mask, int predicate, CUDA_EMULATOR_CALLER) {
  return cuda_emulator::ballot(mask, predicate == 0, caller) == 0;
}

// Blocks run one after another and a processor thread sees its own writes: nothing to order.
inline void __threadfence() {}
inline void __threadfence_block() {}

// ---- Shuffles ----

template <class T>
CUDA_EMULATOR_UNCHECKED T __shfl_sync(unsigned mask, T value, int lane, int width = 32,
                                      CUDA_EMULATOR_CALLER) {
  return cuda_emulator::shuffle_value(value, mask, cuda_emulator::Shuffle::kIndex, lane, width, caller);
}
template <class T>
CUDA_EMULATOR_UNCHECKED T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                                         CUDA_EMULATOR_CALLER) {
  return cuda_emulator::shuffle_value(value, mask, cuda_emulator::Shuffle::kUp, static_cast<int>(delta),
                                      width, caller);
}
template <class T>
CUDA_EMULATOR_UNCHECKED T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                                           CUDA_EMULATOR_CALLER) {
  return cuda_emulator::shuffle_value(value, mask, cuda_emulator::Shuffle::kDown, static_cast<int>(delta),
                                      width, caller);
}
template <class T>
CUDA_EMULATOR_UNCHECKED T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                                          CUDA_EMULATOR_CALLER) {
  return cuda_emulator::shuffle_value(value, mask, cuda_emulator::Shuffle::kXor, lane_mask, width, caller);
}

// ---- Atomics ----

template <class T>
CUDA_EMULATOR_UNCHECKED T atomicAdd(T* address, std::common_type_t<T> value, CUDA_EMULATOR_CALLER) {
  const auto update = [value](T old) CUDA_EMULATOR_UNCHECKED { return static_cast<T>(old + value); };
  return cuda_emulator::atomic_update(address, update, caller);
}
template <class T>
CUDA_EMULATOR_UNCHECKED T atomicMax(T* address, std::common_type_t<T> value, CUDA_EMULATOR_CALLER) {
  const auto update = [value](T old) CUDA_EMULATOR_UNCHECKED { return old < value ? value : old; };
  return cuda_emulator::atomic_update(address, update, caller);
}
template <class T>
CUDA_EMULATOR_UNCHECKED T atomicMin(T* address, std::common_type_t<T> value, CUDA_EMULATOR_CALLER) {
  const auto update = [value](T old) CUDA_EMULATOR_UNCHECKED { return value < old ? value : old; };
  return cuda_emulator::atomic_update(address, update, caller);
}
template <class T>
CUDA_EMULATOR_UNCHECKED T atomicExch(T* address, std::common_type_t<T> value, CUDA_EMULATOR_CALLER) {
  const auto update = [value](T) CUDA_EMULATOR_UNCHECKED { return value; };
  return cuda_emulator::atomic_update(address, update, caller);
}
template <class T>
CUDA_EMULATOR_UNCHECKED T atomicCAS(T* address, std::common_type_t<T> expected, std::common_type_t<T> value,
                                    CUDA_EMULATOR_CALLER) {
  const auto update = [=](T old) CUDA_EMULATOR_UNCHECKED { return old == expected ? value : old; };
  return cuda_emulator::atomic_update(address, update, caller);
}

[[noreturn]] inline CUDA_EMULATOR_UNCHECKED void __trap(CUDA_EMULATOR_CALLER) {
  cuda_emulator::trap(caller);
}
#define __builtin_assume(condition) static_cast<void>(0)

#include <emulated_intrinsics.h>
