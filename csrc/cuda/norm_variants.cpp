// The kernels of the normalisations, their conditions and estimated costs (host code, no CUDA).
#include "norm_variants.h"

#include <algorithm>

#include "conv_conditions.h"
#include "variants.h"

namespace denoise_ext::cuda {
namespace {

constexpr double kLaunch = 3.0;  // microseconds that a further kernel costs
constexpr double kSector = 32;   // bytes: the least that memory gives at once

// Of the input, `run` neighbouring elements of which are read together.
double read_bytes(const NormParams& p, int64_t run) {
  const double used = static_cast<double>(run * element_bytes(p.input.dtype));
  return tensor_bytes(p.input) * std::max(1.0, kSector / used);
}

bool has_channels_beside(const Tensor4& t) {
  return t.stride[1] == 1 || t.size[1] == 1;
}

const char* channels_cannot(const LayerNorm2dParams& p, const DeviceLimits&) {
  return has_channels_beside(p.input) ? nullptr : "needs channels that lie side by side";
}
double channels_cost(const LayerNorm2dParams& p, const DeviceLimits& limits) {
  return memory_cost(read_bytes(p, p.input.size[1]) + tensor_bytes(p.output), limits);
}
double columns_cost(const LayerNorm2dParams& p, const DeviceLimits& limits) {
  const bool beside = p.input.stride[3] == 1 || p.input.size[3] == 1;
  return memory_cost(read_bytes(p, beside ? 64 : 1) + tensor_bytes(p.output), limits);
}

double block_cost(const GroupNormParams& p, const DeviceLimits& limits) {
  const int64_t* size = p.input.size;
  const int64_t per_group = size[1] / p.groups, sets = size[0] * p.groups;
  const bool channels_beside = p.input.stride[1] == 1 && size[1] > 1;
  const double read = read_bytes(p, channels_beside ? per_group : size[3]);
  const double values = static_cast<double>(per_group) * static_cast<double>(size[2] * size[3]);
  const double again = 1.0 - static_cast<double>(group_norm_block_held(p)) / values;
  DeviceLimits busy = limits;  // a group is a block's, and a block a multiprocessor's
  busy.multiprocessors = static_cast<int>(std::min<int64_t>(limits.multiprocessors, sets));
  return memory_cost(read * (1.0 + again) + tensor_bytes(p.output), busy);
}
double parts_cost(const GroupNormParams& p, const DeviceLimits& limits) {
  return memory_cost(2 * tensor_bytes(p.input) + tensor_bytes(p.output), limits) + 2 * kLaunch;
}

const Variant<LayerNorm2dParams> kLayerVariants[] = {
    {"layer_norm2d_channels", channels_cannot, channels_cost, nullptr, layer_norm2d_channels_launch},
    {"layer_norm2d_columns", always, columns_cost, nullptr, layer_norm2d_columns_launch},
};
const Variant<GroupNormParams> kGroupVariants[] = {
    {"group_norm_parts", always, parts_cost, group_norm_parts_workspace, group_norm_parts_launch},
    {"group_norm_block", always, block_cost, nullptr, group_norm_block_launch},
};

}  // namespace

int run(const LayerNorm2dParams& params, const LaunchContext& context) {
  return choose(kLayerVariants, params, context.limits).launch(params, context);
}
int64_t workspace_bytes(const LayerNorm2dParams& params, const DeviceLimits& limits) {
  return workspace_of(kLayerVariants, params, limits);
}
void explain(const LayerNorm2dParams& params, const DeviceLimits& limits, char* text, int bytes) {
  explain(kLayerVariants, params, limits, text, bytes);
}

int run(const GroupNormParams& params, const LaunchContext& context) {
  return choose(kGroupVariants, params, context.limits).launch(params, context);
}
int64_t workspace_bytes(const GroupNormParams& params, const DeviceLimits& limits) {
  return workspace_of(kGroupVariants, params, limits);
}
void explain(const GroupNormParams& params, const DeviceLimits& limits, char* text, int bytes) {
  explain(kGroupVariants, params, limits, text, bytes);
}

}  // namespace denoise_ext::cuda
