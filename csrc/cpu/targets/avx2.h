// Kernels for x86-64 with AVX2 and FMA (Haswell, Zen and later).
#pragma once

#if defined(__x86_64__)

#include <cmath>

#include "../border.h"
#include "../storage.h"
#include "vectors.h"

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")

namespace denoise_ext::cpu {
namespace {

constexpr bool kX86 = true;
constexpr int kVectorBytes = kAvx2Vectors.bytes;
constexpr int kAccumulators = kAvx2Vectors.accumulators;

// A store that leaves no copy in the caches, for results that would only push other data out of them.
// `to` is aligned to the vector. finish_stores_past_caches() before another thread reads them.
typedef float FloatVector __attribute__((vector_size(kVectorBytes)));
DENOISE_EXT_INLINE void store_past_caches(float* to, FloatVector value) {
  __builtin_ia32_movntps256(to, value);
}
DENOISE_EXT_INLINE void finish_stores_past_caches() {
  __builtin_ia32_sfence();
}

#include DENOISE_EXT_KERNELS

}  // namespace

extern const DENOISE_EXT_TABLE;
const DENOISE_EXT_TABLE = kernel_table();

}  // namespace denoise_ext::cpu

#pragma GCC pop_options

#endif  // __x86_64__
