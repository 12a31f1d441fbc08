// Launchers of the weight-gradient kernels and what host and device agree on; each launcher is a row of
// the table in conv_weight_grad_variants.cpp.
#pragma once

#include "../params/conv.h"
#include "../params/launch.h"

namespace denoise_ext::cuda {

// Any case, one block per weight.
int weight_grad_direct_launch(const ConvWeightGradParams& params, const LaunchContext& context);

// Any case, tiles of 64 x 64 channels; meant for dense convolutions.
constexpr int kWeightGradTile = 64;
int64_t weight_grad_tiled_blocks(const ConvWeightGradParams& params);
int weight_grad_tiled_parts(const ConvWeightGradParams& params, const DeviceLimits& limits);
int weight_grad_tiled_launch(const ConvWeightGradParams& params, const LaunchContext& context);

// Tensor cores: fp16 and bf16, channels_last, 3x3 and 1x1, stride 1.
constexpr int kWeightGradMmaCoarse = 64, kWeightGradMmaFine = 32, kWeightGradMmaPixels = 64;
int64_t weight_grad_mma_blocks(const ConvWeightGradParams& params);
int weight_grad_mma_parts(const ConvWeightGradParams& params, const DeviceLimits& limits);
int weight_grad_mma_launch(const ConvWeightGradParams& params, const LaunchContext& context);

}  // namespace denoise_ext::cuda
