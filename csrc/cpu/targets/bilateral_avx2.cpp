#include "../bilateral_kernels.h"

#define DENOISE_EXT_KERNELS "bilateral.inl"
#define DENOISE_EXT_TABLE BilateralKernels kAvx2Bilateral
#include "avx2.h"
