#include "../winograd_kernels.h"

#define DENOISE_EXT_KERNELS "winograd.inl"
#define DENOISE_EXT_TABLE WinogradKernels kAvx512Winograd
#include "avx512.h"
