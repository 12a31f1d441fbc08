// The emulator's bodies of csrc/cuda/primitives.cuh: the same names, arguments and preconditions.
#pragma once

#include <cuda_runtime.h>
#include <emulator.h>

#include <cstddef>
#include <cstdint>
#include <utility>

namespace cuda_emulator {

enum class MatrixType { kF16, kBF16, kTF32 };

void load_matrices(uint32_t* registers, int count, bool transposed, const void* row, SourceLine caller);
void multiply_matrices(MatrixType type, float* c, const uint32_t* a, const uint32_t* b, SourceLine caller);
void start_copy(void* destination, const void* source, bool valid, SourceLine caller);
void commit_copies();
void wait_for_copies(uint32_t groups_in_flight);
unsigned char* dynamic_shared_memory(SourceLine caller);
// Array number `count` of an arena of which `offset` bytes are taken.
void* take_shared(size_t offset, size_t count, size_t bytes, SourceLine caller);
float exp2_flushed(float x);
uint32_t round_to_tf32(float x);
float value_of_float16(uint16_t bits);
uint16_t round_to_float16(float x);
uint16_t round_to_bfloat16(float x);

}  // namespace cuda_emulator

namespace denoise_ext::cuda {

template <int N>
CUDA_EMULATOR_UNCHECKED void ldmatrix(uint32_t (&r)[N], const void* row, CUDA_EMULATOR_CALLER) {
  static_assert(N == 1 || N == 2 || N == 4, "ldmatrix loads 1, 2 or 4 matrices");
  cuda_emulator::load_matrices(r, N, false, row, caller);
}
template <int N>
CUDA_EMULATOR_UNCHECKED void ldmatrix_trans(uint32_t (&r)[N], const void* row, CUDA_EMULATOR_CALLER) {
  static_assert(N == 1 || N == 2 || N == 4, "ldmatrix loads 1, 2 or 4 matrices");
  cuda_emulator::load_matrices(r, N, true, row, caller);
}

inline CUDA_EMULATOR_UNCHECKED void mma_m16n8k16_f16(float (&c)[4], const uint32_t (&a)[4],
                                                     const uint32_t (&b)[2], CUDA_EMULATOR_CALLER) {
  cuda_emulator::multiply_matrices(cuda_emulator::MatrixType::kF16, c, a, b, caller);
}
inline CUDA_EMULATOR_UNCHECKED void mma_m16n8k16_bf16(float (&c)[4], const uint32_t (&a)[4],
                                                      const uint32_t (&b)[2], CUDA_EMULATOR_CALLER) {
  cuda_emulator::multiply_matrices(cuda_emulator::MatrixType::kBF16, c, a, b, caller);
}
inline CUDA_EMULATOR_UNCHECKED void mma_m16n8k8_tf32(float (&c)[4], const uint32_t (&a)[4],
                                                     const uint32_t (&b)[2], CUDA_EMULATOR_CALLER) {
  cuda_emulator::multiply_matrices(cuda_emulator::MatrixType::kTF32, c, a, b, caller);
}

inline CUDA_EMULATOR_UNCHECKED void cp_async16(void* dst, const void* src, bool valid, CUDA_EMULATOR_CALLER) {
  cuda_emulator::start_copy(dst, src, valid, caller);
}
inline CUDA_EMULATOR_UNCHECKED void cp_async_commit() {
  cuda_emulator::commit_copies();
}
template <int N>
CUDA_EMULATOR_UNCHECKED void cp_async_wait() {
  cuda_emulator::wait_for_copies(N);
}

inline CUDA_EMULATOR_UNCHECKED void prefetch_to_l2(const void* /*address*/) {}

inline CUDA_EMULATOR_UNCHECKED float exp2_approx(float x) {
  return cuda_emulator::exp2_flushed(x);
}
inline CUDA_EMULATOR_UNCHECKED uint32_t to_tf32(float x) {
  return cuda_emulator::round_to_tf32(x);
}

inline CUDA_EMULATOR_UNCHECKED float from_float16(uint16_t bits) {
  return cuda_emulator::value_of_float16(bits);
}
inline CUDA_EMULATOR_UNCHECKED uint16_t to_float16(float x) {
  return cuda_emulator::round_to_float16(x);
}
inline CUDA_EMULATOR_UNCHECKED uint16_t to_bfloat16(float x) {
  return cuda_emulator::round_to_bfloat16(x);
}
inline CUDA_EMULATOR_UNCHECKED float2 from_float16_pair(uint32_t word) {
  return float2{from_float16(static_cast<uint16_t>(word)), from_float16(static_cast<uint16_t>(word >> 16))};
}
inline CUDA_EMULATOR_UNCHECKED uint32_t to_float16_pair(float first, float second) {
  return to_float16(first) | static_cast<uint32_t>(to_float16(second)) << 16;
}
inline CUDA_EMULATOR_UNCHECKED uint32_t to_bfloat16_pair(float first, float second) {
  return to_bfloat16(first) | static_cast<uint32_t>(to_bfloat16(second)) << 16;
}

template <class T>
CUDA_EMULATOR_UNCHECKED T* dynamic_shared(CUDA_EMULATOR_CALLER) {
  return reinterpret_cast<T*>(cuda_emulator::dynamic_shared_memory(caller));
}

// The emulator leaves a gap between the arrays, so that one running into the next is seen.
class SharedArena {
 public:
  template <class T>
  static constexpr size_t bytes(size_t n) {
    return (n * sizeof(T) + 127) / 128 * 128;
  }

  template <class T>
  CUDA_EMULATOR_UNCHECKED T* take(size_t n, CUDA_EMULATOR_CALLER) {
    void* const array = cuda_emulator::take_shared(offset_, count_++, n * sizeof(T), caller);
    offset_ += bytes<T>(n);
    return static_cast<T*>(array);
  }

 private:
  size_t offset_ = 0, count_ = 0;
};

template <class... Parameters, class... Arguments>
CUDA_EMULATOR_UNCHECKED int launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                                   void* /*stream*/, Arguments&&... arguments) {
  auto call = [&]() CUDA_EMULATOR_UNCHECKED { kernel(static_cast<Parameters>(arguments)...); };
  struct Body {
    CUDA_EMULATOR_UNCHECKED static void run(void* closure) { (*static_cast<decltype(call)*>(closure))(); }
  };
  cuda_emulator::run_grid(grid, block, shared_bytes, &Body::run, &call);
  return 0;
}

}  // namespace denoise_ext::cuda
