// Everything the kernels use that is not plain CUDA C++: PTX, dynamic shared memory, launching.
//
// Kernel files hold no PTX, no `extern __shared__`, no `<<<>>>` and no `__CUDA_ARCH__`, so that an
// ordinary C++ compiler can compile the very same files for tests; it finds these names in
// <emulated_primitives.h> of tests/cuda_emulator. Both have the same conformance test
// (tests/cuda_emulator/primitives_check.cu).
//
// Built for sm_75 and later. Before sm_80 there are no asynchronous copies (a load and a store stand in
// for them) and no bf16 or tf32 matrix instructions (a kernel that reaches one there traps).
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#if defined(DENOISE_EXT_EMULATE_CUDA)
#include <emulated_primitives.h>
#else

namespace denoise_ext::cuda {

// ---- Shared memory to registers: ldmatrix ----
//
// Loads N (1, 2 or 4) matrices of 8 x 8 16-bit elements. Lane 8 m + i gives the address of row i of
// matrix m (16 bytes, 16-byte aligned, in shared memory). Afterwards r[m] of lane l holds the elements
// (l / 4, l % 4 * 2) and (l / 4, l % 4 * 2 + 1) of matrix m, or of its transpose. All 32 lanes take part.

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// `form`: how many matrices, and ".trans" for their transposes.
#define DENOISE_EXT_LDMATRIX(form, registers, ...)                         \
  asm volatile("ldmatrix.sync.aligned.m8n8." form ".shared.b16 " registers \
               : __VA_ARGS__                                               \
               : "r"(address)                                              \
               : "memory")
#define DENOISE_EXT_LDMATRIX_OR_TRANS(form, registers, ...)      \
  if constexpr (kTransposed)                                     \
    DENOISE_EXT_LDMATRIX(form ".trans", registers, __VA_ARGS__); \
  else                                                           \
    DENOISE_EXT_LDMATRIX(form, registers, __VA_ARGS__)

template <bool kTransposed, int N>
__device__ __forceinline__ void load_matrices(uint32_t (&r)[N], const void* row) {
  static_assert(N == 1 || N == 2 || N == 4, "ldmatrix loads 1, 2 or 4 matrices");
  const uint32_t address = shared_address(row);
  if constexpr (N == 4) {
    DENOISE_EXT_LDMATRIX_OR_TRANS("x4", "{%0, %1, %2, %3}, [%4];", "=r"(r[0]), "=r"(r[1]), "=r"(r[2]),
                                  "=r"(r[3]));
  } else if constexpr (N == 2) {
    DENOISE_EXT_LDMATRIX_OR_TRANS("x2", "{%0, %1}, [%2];", "=r"(r[0]), "=r"(r[1]));
  } else {
    DENOISE_EXT_LDMATRIX_OR_TRANS("x1", "{%0}, [%1];", "=r"(r[0]));
  }
}

#undef DENOISE_EXT_LDMATRIX_OR_TRANS
#undef DENOISE_EXT_LDMATRIX

template <int N>
__device__ __forceinline__ void ldmatrix(uint32_t (&r)[N], const void* row) {
  load_matrices<false>(r, row);
}
template <int N>
__device__ __forceinline__ void ldmatrix_trans(uint32_t (&r)[N], const void* row) {
  load_matrices<true>(r, row);
}

// ---- Matrix multiply-accumulate: c += a b, c in float ----
//
// With g = lane / 4 and t = lane % 4, of a (16 x K, row-major), b (K x 8) and c (16 x 8) a lane holds
//   c[0], c[1] = (g, 2t), (g, 2t + 1)       c[2], c[3] = the same columns of row g + 8
// K = 16, two 16-bit elements per register, the lower-numbered column (row for b) in the low half:
//   a[0] = (g, 2t..)   a[1] = (g + 8, 2t..)   a[2] = (g, 2t + 8..)   a[3] = (g + 8, 2t + 8..)
//   b[0] = (2t.., g)   b[1] = (2t + 8.., g)
// K = 8, one tf32 element per register (see to_tf32):
//   a[0] = (g, t)      a[1] = (g + 8, t)      a[2] = (g, t + 4)      a[3] = (g + 8, t + 4)
//   b[0] = (t, g)      b[1] = (t + 4, g)
// All 32 lanes take part.

__device__ __forceinline__ void mma_m16n8k16_f16(float (&c)[4], const uint32_t (&a)[4],
                                                 const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  // The two halves of K, one after the other.
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
  }
#endif
}

__device__ __forceinline__ void mma_m16n8k16_bf16(float (&c)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  __trap();
#endif
}

__device__ __forceinline__ void mma_m16n8k8_tf32(float (&c)[4], const uint32_t (&a)[4],
                                                 const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  __trap();
#endif
}

// ---- Global to shared memory, asynchronously ----

// Copies 16 bytes; !valid writes zeros and reads nothing, whatever `src` is. Both 16-byte aligned.
__device__ __forceinline__ void cp_async16(void* dst, const void* src, bool valid) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(dst)), "l"(src),
               "r"(valid ? 16 : 0)
               : "memory");
#else
  *static_cast<uint4*>(dst) = valid ? *static_cast<const uint4*>(src) : uint4{0, 0, 0, 0};
#endif
}

// Closes the group of the copies this thread has started since the last commit.
__device__ __forceinline__ void cp_async_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits for this thread's copies except those of its N youngest groups. Other threads see the data
// only after a barrier that follows the wait.
template <int N>
__device__ __forceinline__ void cp_async_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

// Asks for the line of memory that `address` lies in to be brought to the L2 cache. Changes nothing that a
// program can read.
__device__ __forceinline__ void prefetch_to_l2(const void* address) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}

// ---- Arithmetic ----

// 2^x to 2 ulp; subnormal arguments and results are flushed to zero.
__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// The bits of x rounded to tf32 (10 bits of fraction, ties away from zero).
__device__ __forceinline__ uint32_t to_tf32(float x) {
  uint32_t y = 0;
#if __CUDA_ARCH__ >= 800
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
#else
  __trap();
#endif
  return y;
}

// ---- 16-bit elements as their bits: rounded to nearest, ties to even; a NaN stays one ----

__device__ __forceinline__ float from_float16(uint16_t bits) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
  return x;
}
__device__ __forceinline__ uint16_t to_float16(float x) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}
__device__ __forceinline__ uint16_t to_bfloat16(float x) {
#if __CUDA_ARCH__ >= 800
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
#else
  const uint32_t bits = __float_as_uint(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
#endif
}

// Two neighbours in one word, the first in the low half.
__device__ __forceinline__ float2 from_float16_pair(uint32_t word) {
  float2 pair;
  asm("{.reg .f16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, low;}" : "=f"(pair.x) : "r"(word));
  asm("{.reg .f16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, high;}" : "=f"(pair.y) : "r"(word));
  return pair;
}
__device__ __forceinline__ uint32_t to_float16_pair(float first, float second) {
  uint32_t word;
#if __CUDA_ARCH__ >= 800
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
#else
  asm("{.reg .f16 low, high; cvt.rn.f16.f32 low, %1; cvt.rn.f16.f32 high, %2; mov.b32 %0, {low, high};}"
      : "=r"(word)
      : "f"(first), "f"(second));
#endif
  return word;
}
__device__ __forceinline__ uint32_t to_bfloat16_pair(float first, float second) {
#if __CUDA_ARCH__ >= 800
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  return word;
#else
  return to_bfloat16(first) | static_cast<uint32_t>(to_bfloat16(second)) << 16;
#endif
}

// ---- Dynamic shared memory ----

template <class T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char dynamic_shared_memory[];
  return reinterpret_cast<T*>(dynamic_shared_memory);
}

// Hands out the launch's dynamic shared memory array by array, each 128-byte aligned.
class SharedArena {
 public:
  // What take<T>(n) uses up; a launch gives the sum over its arrays.
  template <class T>
  static constexpr __host__ __device__ size_t bytes(size_t n) {
    return (n * sizeof(T) + 127) / 128 * 128;
  }

  template <class T>
  __device__ __forceinline__ T* take(size_t n) {
    T* const array = reinterpret_cast<T*>(dynamic_shared<unsigned char>() + offset_);
    offset_ += bytes<T>(n);
    return array;
  }

 private:
  size_t offset_ = 0;
};

// ---- Launching ----

// Lets a kernel have as much dynamic shared memory as the current device gives. The most there is, not
// what one launch needs: the setting is the kernel's, and between another thread's setting of it and
// that thread's launch a smaller one would make the launch fail.
inline cudaError_t allow_all_dynamic_shared(const void* kernel) {
  int device = 0, most = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error == cudaSuccess)
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
  return error;
}

// Starts a kernel on a stream (a cudaStream_t) and returns the cudaError_t, 0 for success. Allocates
// nothing and does not wait, so it may be captured in a CUDA graph. A kernel that may take more than
// 48 KiB of dynamic shared memory has no static shared arrays beside it: the two share the limit.
template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, void* stream,
           Arguments&&... arguments) {
  constexpr size_t kWithoutOptIn = 48 * 1024;
  cudaError_t error = cudaSuccess;
  if (shared_bytes > kWithoutOptIn) error = allow_all_dynamic_shared(reinterpret_cast<const void*>(kernel));
  if (error == cudaSuccess) {
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = static_cast<cudaStream_t>(stream);
    error =
        cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(std::forward<Arguments>(arguments))...);
  }
  // The runtime also keeps a failure as its "last error"; left there, somebody else's check trips on it.
  if (error != cudaSuccess) cudaGetLastError();
  return static_cast<int>(error);
}

}  // namespace denoise_ext::cuda

#endif  // DENOISE_EXT_EMULATE_CUDA
