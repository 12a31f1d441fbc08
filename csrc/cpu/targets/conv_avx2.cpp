#include "../conv_kernels.h"

#define DENOISE_EXT_KERNELS "conv.inl"
#define DENOISE_EXT_TABLE ConvKernels kAvx2Conv
#include "avx2.h"
