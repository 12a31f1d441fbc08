// Kernels for what every processor of the architecture has: SSE2 on x86-64, NEON on aarch64.
#pragma once

#include <cmath>

#include "../border.h"
#include "../storage.h"
#include "vectors.h"

namespace denoise_ext::cpu {
namespace {

#if defined(__aarch64__)
constexpr bool kX86 = false;
#else
constexpr bool kX86 = true;
#endif
constexpr int kVectorBytes = kBaselineVectors.bytes;
constexpr int kAccumulators = kBaselineVectors.accumulators;

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

#include DENOISE_EXT_KERNELS

}  // namespace

extern const DENOISE_EXT_TABLE;
const DENOISE_EXT_TABLE = kernel_table();

}  // namespace denoise_ext::cpu
