// Host helpers of the test kernels: buffers that are device memory under nvcc and checked memory in the
// emulator, and calls from Python that bring the emulator's errors back as text. Included by one file of a
// library.
#pragma once

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "../../csrc/cuda/primitives.cuh"

#define EXPORT extern "C" __attribute__((visibility("default")))

// n elements that kernels may read and write.
template <class T>
class Buffer {
 public:
  enum class State { kUnwritten, kWritten };

#if defined(DENOISE_EXT_EMULATE_CUDA)
  // Padding keeps neighbours apart in the shadow build; AddressSanitizer has its own.
  explicit Buffer(size_t n, State state = State::kUnwritten) : storage_(n + kPadding), n_(n) {
    const auto size = static_cast<int64_t>(n), stride = int64_t{1};
    using cuda_emulator::Use;
    cuda_emulator::use_memory(data(), 1, &size, &stride, sizeof(T),
                              state == State::kWritten ? Use::kUpdate : Use::kFill);
  }
  Buffer(const T* host, size_t n) : Buffer(n, State::kWritten) { std::memcpy(data(), host, n * sizeof(T)); }
  T* data() { return storage_.data(); }
  void read(T* host) { std::memcpy(host, data(), n_ * sizeof(T)); }

 private:
#if defined(CUDA_EMULATOR_SHADOW)
  static constexpr size_t kPadding = 64;
#else
  static constexpr size_t kPadding = 0;
#endif
  std::vector<T> storage_;
  size_t n_;
#else
  explicit Buffer(size_t n, State = State::kUnwritten) : n_(n) {
    if (cudaMalloc(&data_, n * sizeof(T)) != cudaSuccess) data_ = nullptr;
  }
  Buffer(const T* host, size_t n) : Buffer(n) {
    cudaMemcpy(data_, host, n * sizeof(T), cudaMemcpyHostToDevice);
  }
  ~Buffer() { cudaFree(data_); }
  Buffer(const Buffer&) = delete;
  T* data() { return data_; }
  void read(T* host) { cudaMemcpy(host, data_, n_ * sizeof(T), cudaMemcpyDeviceToHost); }

 private:
  T* data_ = nullptr;
  size_t n_;
#endif
};

static char error_text[4096];

EXPORT const char* last_error() {
  return error_text;
}

// Runs f() -> CUDA error code of a launch. Returns 0, or 1 with the reason in last_error().
template <class F>
int guarded(const F& f) {
  error_text[0] = '\0';
#if defined(DENOISE_EXT_EMULATE_CUDA)
  cuda_emulator::forget_memory();
  try {
    f();
  } catch (const cuda_emulator::Error& error) {
    std::snprintf(error_text, sizeof error_text, "%s", error.what());
    return 1;
  }
  return 0;
#else
  int code = f();
  if (code == 0) code = static_cast<int>(cudaDeviceSynchronize());
  if (code == 0) return 0;
  std::snprintf(error_text, sizeof error_text, "%s", cudaGetErrorString(static_cast<cudaError_t>(code)));
  return 1;
#endif
}

EXPORT void set_seed([[maybe_unused]] unsigned seed) {
#if defined(DENOISE_EXT_EMULATE_CUDA)
  cuda_emulator::options().seed = seed;
#endif
}
