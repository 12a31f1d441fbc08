// The motion kernels (host code, no CUDA). Each call has one that can take it.
#include "motion_variants.h"

#include "cost.h"
#include "variants.h"

namespace denoise_ext::cuda {
namespace {

double elements_of(const Tensor4& t) {
  return static_cast<double>(t.size[0]) * static_cast<double>(t.size[1]) * static_cast<double>(t.size[2]) *
         static_cast<double>(t.size[3]);
}

double element_bytes(const Tensor4& t) {
  switch (t.dtype) {
    case DType::kFloat64: return 8;
    case DType::kFloat32: return 4;
    case DType::kUInt8: return 1;
    default: return 2;
  }
}

double match_cost(const BlockMatchParams& p, const DeviceLimits& limits) {
  // Of each block: 81 windows of 16 pixels, 9 of 64 and 9 of 256.
  const double differences = elements_of(p.input) / 64 * (81 * 16 + 9 * 64 + 9 * 256);
  return memory_cost(2 * elements_of(p.input) * element_bytes(p.input), limits) +
         multiply_cost(differences, 1.0 / 4, limits);
}

const char* copy_cannot(const BlockWarpParams& p, const DeviceLimits&) {
  return p.adjoint ? "it copies, and the gradient is a sum" : nullptr;
}
const char* gather_cannot(const BlockWarpParams& p, const DeviceLimits&) {
  return p.adjoint ? nullptr : "it sums for the gradient";
}
double copy_cost(const BlockWarpParams& p, const DeviceLimits& limits) {
  return memory_cost(2 * elements_of(p.input) * element_bytes(p.input), limits);
}
double gather_cost(const BlockWarpParams& p, const DeviceLimits& limits) {
  // Each tile of pixels looks at all blocks of its image.
  const double tiles = elements_of(p.input) / 256, blocks = elements_of(p.input) / 64;
  const double images = static_cast<double>(p.input.size[0] * p.input.size[1]);
  return copy_cost(p, limits) + multiply_cost(tiles * blocks / images, 1.0 / 16, limits);
}

double fuse_cost(const RecurrentFuseParams& p, const DeviceLimits& limits) {
  return memory_cost((2 * elements_of(p.previous) + 2 * elements_of(p.input)) * element_bytes(p.input),
                     limits);
}
double fuse_grad_cost(const RecurrentFuseGradParams& p, const DeviceLimits& limits) {
  return 2 * fuse_cost(p.forward, limits);
}

const Variant<BlockMatchParams> kMatchVariants[] = {
    {"block_match_pyramid", always, match_cost, block_match_workspace, block_match_launch},
};
const Variant<BlockWarpParams> kWarpVariants[] = {
    {"block_warp_copy", copy_cannot, copy_cost, nullptr, block_warp_copy_launch},
    {"block_warp_gather_grad", gather_cannot, gather_cost, nullptr, block_warp_gather_launch},
};
const Variant<RecurrentFuseParams> kFuseVariants[] = {
    {"recurrent_fuse_pixel", always, fuse_cost, nullptr, recurrent_fuse_launch},
};
const Variant<RecurrentFuseGradParams> kFuseGradVariants[] = {
    {"recurrent_fuse_grad_pixel", always, fuse_grad_cost, nullptr, recurrent_fuse_grad_launch},
};

}  // namespace

int run(const BlockMatchParams& params, const LaunchContext& context) {
  return choose(kMatchVariants, params, context.limits).launch(params, context);
}
int64_t workspace_bytes(const BlockMatchParams& params, const DeviceLimits& limits) {
  return workspace_of(kMatchVariants, params, limits);
}
void explain(const BlockMatchParams& params, const DeviceLimits& limits, char* text, int bytes) {
  explain(kMatchVariants, params, limits, text, bytes);
}

int run(const BlockWarpParams& params, const LaunchContext& context) {
  return choose(kWarpVariants, params, context.limits).launch(params, context);
}
int64_t workspace_bytes(const BlockWarpParams& params, const DeviceLimits& limits) {
  return workspace_of(kWarpVariants, params, limits);
}
void explain(const BlockWarpParams& params, const DeviceLimits& limits, char* text, int bytes) {
  explain(kWarpVariants, params, limits, text, bytes);
}

int run(const RecurrentFuseParams& params, const LaunchContext& context) {
  return choose(kFuseVariants, params, context.limits).launch(params, context);
}
int64_t workspace_bytes(const RecurrentFuseParams& params, const DeviceLimits& limits) {
  return workspace_of(kFuseVariants, params, limits);
}
void explain(const RecurrentFuseParams& params, const DeviceLimits& limits, char* text, int bytes) {
  explain(kFuseVariants, params, limits, text, bytes);
}

int run(const RecurrentFuseGradParams& params, const LaunchContext& context) {
  return choose(kFuseGradVariants, params, context.limits).launch(params, context);
}
int64_t workspace_bytes(const RecurrentFuseGradParams& params, const DeviceLimits& limits) {
  return workspace_of(kFuseGradVariants, params, limits);
}
void explain(const RecurrentFuseGradParams& params, const DeviceLimits& limits, char* text, int bytes) {
  explain(kFuseGradVariants, params, limits, text, bytes);
}

}  // namespace denoise_ext::cuda
