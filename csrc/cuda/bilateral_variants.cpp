// The bilateral kernels and how one is chosen (host code, no CUDA).
#include "bilateral_variants.h"

#include "cost.h"
#include "variants.h"

namespace denoise_ext::cuda {
namespace {

// An instruction of a lane takes as long as a multiply-add.
double instruction_cost(const BilateralParams& p, double per_tap, const DeviceLimits& limits) {
  const double taps = static_cast<double>(p.kernel_size[0]) * static_cast<double>(p.kernel_size[1]);
  const double pixels = static_cast<double>(p.input.size[0]) * static_cast<double>(p.input.size[2]) *
                        static_cast<double>(p.input.size[3]);
  return multiply_cost(pixels * taps * per_tap, 1, limits);
}

// About 40 instructions a tap for addresses and borders, and as many per channel read.
double direct_cost(const BilateralParams& p, const DeviceLimits& limits) {
  const double channels = static_cast<double>(p.input.size[1] + p.guidance.size[1]);
  return instruction_cost(p, 40 + 20 * channels, limits);
}
// 4 instructions a channel and 1 to 2 more, for every three channels of input.
double tile_cost(const BilateralParams& p, const DeviceLimits& limits) {
  const double parts = static_cast<double>((p.input.size[1] + 2) / 3);
  return parts * instruction_cost(p, 2 + 4 * static_cast<double>(p.guidance.size[1]), limits);
}
double grad_direct_cost(const BilateralGradParams& p, const DeviceLimits& limits) {
  return 3 * direct_cost(p.forward, limits);
}
// The filter, and a gather of 10 instructions a channel and 7 more.
double grad_tile_cost(const BilateralGradParams& p, const DeviceLimits& limits) {
  const double channels = static_cast<double>(p.forward.guidance.size[1]);
  return tile_cost(p.forward, limits) + instruction_cost(p.forward, 7 + 10 * channels, limits);
}

const Variant<BilateralParams> kBilateralVariants[] = {
    {"bilateral_tile", bilateral_tile_cannot_run, tile_cost, nullptr, bilateral_tile_launch},
    {"bilateral_direct", always, direct_cost, nullptr, bilateral_direct_launch},
};

const Variant<BilateralGradParams> kBilateralGradVariants[] = {
    {"bilateral_grad_tile", bilateral_grad_tile_cannot_run, grad_tile_cost, bilateral_grad_tile_workspace,
     bilateral_grad_tile_launch},
    {"bilateral_grad_direct", always, grad_direct_cost, bilateral_grad_direct_workspace,
     bilateral_grad_direct_launch},
};

}  // namespace

int run(const BilateralParams& params, const LaunchContext& context) {
  return choose(kBilateralVariants, params, context.limits).launch(params, context);
}

int64_t workspace_bytes(const BilateralParams& params, const DeviceLimits& limits) {
  return workspace_of(kBilateralVariants, params, limits);
}

void explain(const BilateralParams& params, const DeviceLimits& limits, char* text, int bytes) {
  explain(kBilateralVariants, params, limits, text, bytes);
}

int run(const BilateralGradParams& params, const LaunchContext& context) {
  return choose(kBilateralGradVariants, params, context.limits).launch(params, context);
}

int64_t workspace_bytes(const BilateralGradParams& params, const DeviceLimits& limits) {
  return workspace_of(kBilateralGradVariants, params, limits);
}

void explain(const BilateralGradParams& params, const DeviceLimits& limits, char* text, int bytes) {
  explain(kBilateralGradVariants, params, limits, text, bytes);
}

}  // namespace denoise_ext::cuda
