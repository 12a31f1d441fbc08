#include "../norm_kernels.h"

#define DENOISE_EXT_KERNELS "norm.inl"
#define DENOISE_EXT_TABLE NormKernels kAvx2Norm
#include "avx2.h"
