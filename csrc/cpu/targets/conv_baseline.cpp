#include "../conv_kernels.h"

#define DENOISE_EXT_KERNELS "conv.inl"
#define DENOISE_EXT_TABLE ConvKernels kBaselineConv
#include "baseline.h"
