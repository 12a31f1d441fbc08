// The kernels of one instruction set: their bodies inside its target region, and the table made of them.
// The header of the instruction set opens this file last, after it has defined
//   DENOISE_EXT_VECTORS       its constants of vectors.h,
//   DENOISE_EXT_BEGIN_TARGET  what turns its instructions on (target_region.h),
//   DENOISE_EXT_END_TARGET    what turns them off again; nothing for the baseline, like the one before,
//   DENOISE_EXT_STREAM_STORE  GCC's store that leaves no copy in the caches (x86-64).
#pragma once

#include <cmath>

#include "../border.h"
#include "../storage.h"
#include "vectors.h"

DENOISE_EXT_BEGIN_TARGET

namespace denoise_ext::cpu {
namespace {

// The operand of assembler that is a vector's register. clang refuses that of another architecture in
// code that it never compiles, too.
#if defined(__aarch64__)
constexpr bool kX86 = false;
#define DENOISE_EXT_VECTOR_REGISTER "+w"
#else
constexpr bool kX86 = true;
#define DENOISE_EXT_VECTOR_REGISTER "+v"
#endif
constexpr int kVectorBytes = DENOISE_EXT_VECTORS.bytes;
constexpr int kAccumulators = DENOISE_EXT_VECTORS.accumulators;

// A store that leaves no copy in the caches, for results that would only push other data out of them.
// `to` is aligned to the vector. finish_stores_past_caches() before another thread reads them.
typedef float FloatVector __attribute__((vector_size(kVectorBytes)));
DENOISE_EXT_INLINE void store_past_caches(float* to, FloatVector value) {
#if defined(__clang__)
  __builtin_nontemporal_store(value, reinterpret_cast<FloatVector*>(to));
#elif defined(__aarch64__)
  *reinterpret_cast<FloatVector*>(to) = value;
#else
  DENOISE_EXT_STREAM_STORE(to, value);
#endif
}
DENOISE_EXT_INLINE void finish_stores_past_caches() {
#if !defined(__aarch64__)
  __builtin_ia32_sfence();
#endif
}

#include DENOISE_EXT_KERNELS

}  // namespace

extern const DENOISE_EXT_TABLE;
const DENOISE_EXT_TABLE = kernel_table();

}  // namespace denoise_ext::cpu

DENOISE_EXT_END_TARGET
