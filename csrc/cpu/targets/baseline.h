// What every processor of the architecture has: SSE2 on x86-64, NEON on aarch64.
#pragma once

#define DENOISE_EXT_VECTORS kBaselineVectors
#define DENOISE_EXT_BEGIN_TARGET
#define DENOISE_EXT_END_TARGET
#define DENOISE_EXT_STREAM_STORE __builtin_ia32_movntps

#include "target.h"
