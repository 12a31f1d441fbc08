// Launchers of the bilateral kernels; each is a row of a table in bilateral_variants.cpp.
#pragma once

#include "../params/bilateral.h"
#include "../params/launch.h"

namespace denoise_ext::cuda {

// The guidance is the input itself, not only like it.
inline bool is_self_guided(const BilateralParams& p) {
  bool same = p.input.data == p.guidance.data;  // a view of some channels begins where the whole does
  for (int i = 0; i < 4; ++i)
    same = same && p.input.size[i] == p.guidance.size[i] && p.input.stride[i] == p.guidance.stride[i];
  return same;
}

// Few guidance channels, while the window's tile fits shared memory.
const char* bilateral_tile_cannot_run(const BilateralParams& params, const DeviceLimits& limits);
int bilateral_tile_launch(const BilateralParams& params, const LaunchContext& context);

// The first pass of the gradients in its place, for at most three channels; see bilateral_grad.cuh.
int bilateral_normalise_launch(const BilateralGradParams& params, int64_t first, int64_t images,
                               float* scaled, void* stream);

// Any case.
int bilateral_direct_launch(const BilateralParams& params, const LaunchContext& context);

// The gradients. _tile: few channels, while the tile fits shared memory; _direct: any case.
const char* bilateral_grad_tile_cannot_run(const BilateralGradParams& params, const DeviceLimits& limits);
int64_t bilateral_grad_tile_workspace(const BilateralGradParams& params, const DeviceLimits& limits);
int bilateral_grad_tile_launch(const BilateralGradParams& params, const LaunchContext& context);
int64_t bilateral_grad_direct_workspace(const BilateralGradParams& params, const DeviceLimits& limits);
int bilateral_grad_direct_launch(const BilateralGradParams& params, const LaunchContext& context);

}  // namespace denoise_ext::cuda
