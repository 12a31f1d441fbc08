#include "../norm_kernels.h"

#define DENOISE_EXT_KERNELS "norm.inl"
#define DENOISE_EXT_TABLE NormKernels kBaselineNorm
#include "baseline.h"
