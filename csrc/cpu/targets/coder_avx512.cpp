#include "../coder_kernels.h"

#define DENOISE_EXT_KERNELS "coder.inl"
#define DENOISE_EXT_TABLE CoderKernels kAvx512Coder
#include "avx512.h"
