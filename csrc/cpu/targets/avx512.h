// x86-64 with AVX-512 F/BW/DQ/VL (Skylake-SP, Zen 4 and later).
#pragma once

#if defined(__x86_64__)

#include "target_region.h"

#define DENOISE_EXT_VECTORS kAvx512Vectors
#define DENOISE_EXT_BEGIN_TARGET                                               \
  DENOISE_EXT_BEGIN_REGION("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c") \
  DENOISE_EXT_GCC_TARGET("prefer-vector-width=512")
#define DENOISE_EXT_END_TARGET DENOISE_EXT_END_REGION
#define DENOISE_EXT_STREAM_STORE __builtin_ia32_movntps512

#include "target.h"

#endif  // __x86_64__
