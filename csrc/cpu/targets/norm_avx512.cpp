#include "../norm_kernels.h"

#define DENOISE_EXT_KERNELS "norm.inl"
#define DENOISE_EXT_TABLE NormKernels kAvx512Norm
#include "avx512.h"
