#include "../bilateral_kernels.h"

#define DENOISE_EXT_KERNELS "bilateral.inl"
#define DENOISE_EXT_TABLE BilateralKernels kBaselineBilateral
#include "baseline.h"
