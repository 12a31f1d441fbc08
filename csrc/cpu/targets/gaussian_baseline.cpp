#include "../gaussian_kernels.h"

#define DENOISE_EXT_KERNELS "gaussian.inl"
#define DENOISE_EXT_TABLE GaussianKernels kBaselineGaussian
#include "baseline.h"
