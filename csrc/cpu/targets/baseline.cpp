// Kernels for what every processor of the architecture has: SSE2 on x86-64, NEON on aarch64.

#include <cmath>

#include "../isa.h"
#include "../storage.h"

namespace denoise_ext::cpu {
namespace {

constexpr int kVectorBytes = 16;
#if defined(__aarch64__)
constexpr bool kX86 = false;
constexpr int kAccumulators = 24;  // of 32 registers
#else
constexpr bool kX86 = true;
constexpr int kAccumulators = 12;  // of 16 registers
#endif

// A store that leaves no copy in the caches, for results that would only push other data out of them.
// `to` is aligned to the vector. finish_stores_past_caches() before another thread reads them.
typedef float FloatVector __attribute__((vector_size(kVectorBytes)));
#if defined(__aarch64__)
DENOISE_EXT_INLINE void store_past_caches(float* to, FloatVector value) {
  *reinterpret_cast<FloatVector*>(to) = value;
}
DENOISE_EXT_INLINE void finish_stores_past_caches() {}
#else
DENOISE_EXT_INLINE void store_past_caches(float* to, FloatVector value) {
  __builtin_ia32_movntps(to, value);
}
DENOISE_EXT_INLINE void finish_stores_past_caches() {
  __builtin_ia32_sfence();
}
#endif

#include "kernels.inl"

}  // namespace

extern const KernelTable kBaselineKernels;
#if defined(__aarch64__)
const KernelTable kBaselineKernels = kernel_table("neon");
#else
const KernelTable kBaselineKernels = kernel_table("baseline");
#endif

}  // namespace denoise_ext::cpu
