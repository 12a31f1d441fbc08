// x86-64 with AVX2 and FMA (Haswell, Zen and later).
#pragma once

#if defined(__x86_64__)

#include "target_region.h"

#define DENOISE_EXT_VECTORS kAvx2Vectors
#define DENOISE_EXT_BEGIN_TARGET DENOISE_EXT_BEGIN_REGION("avx2,fma,f16c")
#define DENOISE_EXT_END_TARGET DENOISE_EXT_END_REGION
#define DENOISE_EXT_STREAM_STORE __builtin_ia32_movntps256

#include "target.h"

#endif  // __x86_64__
