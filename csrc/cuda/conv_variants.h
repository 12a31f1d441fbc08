// Launchers of the convolution kernels; each is a row of a table in conv_variants.cpp.
#pragma once

#include "../params/conv.h"
#include "../params/launch.h"

namespace denoise_ext::cuda {

// conv2d and conv_transpose2d: any case.
int conv_direct_launch(const ConvParams& params, const LaunchContext& context);

}  // namespace denoise_ext::cuda
