// A convolution as several of stride 1, dilation 1 and one group, for the row ring (host code, no CUDA).
//
// Views of the tensors are enough, every output is written once and by one part, and no number is rounded
// more often than in one kernel:
// - groups: the channels of one group;
// - dilation d of a stride-1 convolution: every d-th row (column) of the output reads every d-th of the
// input;
// - stride s of a transposed convolution: every s-th row of the output is reached by every s-th tap.
#pragma once

#include "../params/conv.h"
#include "../params/launch.h"

namespace denoise_ext::cuda {

const char* conv_parts_cannot_run(const ConvParams& params, const DeviceLimits& limits);
double conv_parts_cost(const ConvParams& params, const DeviceLimits& limits);
int64_t conv_parts_workspace(const ConvParams& params, const DeviceLimits& limits);

}  // namespace denoise_ext::cuda
