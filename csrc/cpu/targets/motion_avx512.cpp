#include "../motion_kernels.h"

#define DENOISE_EXT_KERNELS "motion.inl"
#define DENOISE_EXT_TABLE MotionKernels kAvx512Motion
#include "avx512.h"
