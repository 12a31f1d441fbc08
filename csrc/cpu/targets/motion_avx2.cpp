#include "../motion_kernels.h"

#define DENOISE_EXT_KERNELS "motion.inl"
#define DENOISE_EXT_TABLE MotionKernels kAvx2Motion
#include "avx2.h"
