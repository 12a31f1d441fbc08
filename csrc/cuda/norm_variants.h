// Launchers of the normalisations; each is a row of a table in norm_variants.cpp.
#pragma once

#include "../params/norm.h"

namespace denoise_ext::cuda {

int layer_norm2d_channels_launch(const LayerNorm2dParams& params, const LaunchContext& context);
int layer_norm2d_columns_launch(const LayerNorm2dParams& params, const LaunchContext& context);

int group_norm_block_launch(const GroupNormParams& params, const LaunchContext& context);
// Values of a group that a block keeps from the first pass to the second.
int64_t group_norm_block_held(const GroupNormParams& params);

int64_t group_norm_parts_workspace(const GroupNormParams& params, const DeviceLimits& limits);
int group_norm_parts_launch(const GroupNormParams& params, const LaunchContext& context);

}  // namespace denoise_ext::cuda
