// Normalisation: output = act((input - mean) / sqrt(variance + eps) * weight + bias), with mean and variance
// (divided by the number of values, not one less) of some of an image's values.
#pragma once

#include "launch.h"
#include "types.h"

namespace denoise_ext {

struct NormParams {
  Tensor4 input, output;  // (N, C, H, W)
  Tensor1 weight, bias;   // (C), or absent
  double eps;
  Activation activation;  // not PReLU
  double negative_slope;
};

// Over the channels of each pixel.
struct LayerNorm2dParams : NormParams {};

// Over the pixels of C / groups neighbouring channels.
struct GroupNormParams : NormParams {
  int64_t groups;
};

// Entry points of the CUDA build, as in conv.h.
namespace cuda {

int run(const LayerNorm2dParams& params, const LaunchContext& context);
int64_t workspace_bytes(const LayerNorm2dParams& params, const DeviceLimits& limits);
void explain(const LayerNorm2dParams& params, const DeviceLimits& limits, char* text, int bytes);

int run(const GroupNormParams& params, const LaunchContext& context);
int64_t workspace_bytes(const GroupNormParams& params, const DeviceLimits& limits);
void explain(const GroupNormParams& params, const DeviceLimits& limits, char* text, int bytes);

}  // namespace cuda
}  // namespace denoise_ext
