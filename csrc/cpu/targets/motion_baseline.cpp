#include "../motion_kernels.h"

#define DENOISE_EXT_KERNELS "motion.inl"
#define DENOISE_EXT_TABLE MotionKernels kBaselineMotion
#include "baseline.h"
