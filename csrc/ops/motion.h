// What block_warp and recurrent_fuse share with their forms that write into given memory.
#pragma once

#include "../params/motion.h"
#include "common.h"

namespace denoise_ext::ops {

// Checked, and all but the output filled in. `motion` is dense.
BlockWarpParams checked_warp(const Tensor& image, const Tensor& motion, const char* op, const char* argument);
RecurrentFuseParams checked_fuse(const Tensor& input, const Tensor& previous, const Tensor& gate,
                                 const Tensor& level, const char* op);

}  // namespace denoise_ext::ops
