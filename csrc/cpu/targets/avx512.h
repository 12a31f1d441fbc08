// x86-64 with AVX-512 F/BW/DQ/VL (Skylake-SP, Zen 4 and later).
#pragma once

#if defined(__x86_64__)

#define DENOISE_EXT_VECTORS kAvx512Vectors
#define DENOISE_EXT_TARGET \
  _Pragma("GCC target(\"avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512\")")
#define DENOISE_EXT_STREAM_STORE __builtin_ia32_movntps512

#include "target.h"

#endif  // __x86_64__
