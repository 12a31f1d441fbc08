// Launchers of the bilateral kernels; each is a row of a table in bilateral_variants.cpp.
#pragma once

#include "../params/bilateral.h"
#include "../params/launch.h"

namespace denoise_ext::cuda {

// 1, 3 or 4 channels, while the window's tile fits shared memory.
const char* bilateral_tile_cannot_run(const BilateralParams& params, const DeviceLimits& limits);
int bilateral_tile_launch(const BilateralParams& params, const LaunchContext& context);

// Any case.
int bilateral_direct_launch(const BilateralParams& params, const LaunchContext& context);

int64_t bilateral_grad_direct_workspace(const BilateralGradParams& params, const DeviceLimits& limits);
int bilateral_grad_direct_launch(const BilateralGradParams& params, const LaunchContext& context);

}  // namespace denoise_ext::cuda
