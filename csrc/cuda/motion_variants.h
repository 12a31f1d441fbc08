// Launchers of the motion kernels; each is a row of a table in motion_variants.cpp.
#pragma once

#include "../params/motion.h"

namespace denoise_ext::cuda {

int64_t block_match_workspace(const BlockMatchParams& params, const DeviceLimits& limits);
int block_match_launch(const BlockMatchParams& params, const LaunchContext& context);

int block_warp_copy_launch(const BlockWarpParams& params, const LaunchContext& context);
int block_warp_gather_launch(const BlockWarpParams& params, const LaunchContext& context);

int recurrent_fuse_launch(const RecurrentFuseParams& params, const LaunchContext& context);
int recurrent_fuse_grad_launch(const RecurrentFuseGradParams& params, const LaunchContext& context);

}  // namespace denoise_ext::cuda
