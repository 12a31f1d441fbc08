#include "../bilateral_kernels.h"

#define DENOISE_EXT_KERNELS "bilateral.inl"
#define DENOISE_EXT_TABLE BilateralKernels kAvx512Bilateral
#include "avx512.h"
