// Normalisation: output = act((input - mean) / sqrt(variance + eps) * weight + bias), with mean and variance
// (divided by the number of values, not one less) of some of an image's values.
#pragma once

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

}  // namespace denoise_ext
