#include "../gaussian_kernels.h"

#define DENOISE_EXT_KERNELS "gaussian.inl"
#define DENOISE_EXT_TABLE GaussianKernels kAvx512Gaussian
#include "avx512.h"
