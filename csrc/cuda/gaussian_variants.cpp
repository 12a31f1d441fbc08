// The Gaussian kernels and how one is chosen (host code, no CUDA).
#include "gaussian_variants.h"

#include "cost.h"
#include "variants.h"

namespace denoise_ext::cuda {
namespace {

constexpr const char* kTooLarge = "the rows of so large a kernel do not fit a block's shared memory";

double pixels_of(const Tensor4& t) {
  return static_cast<double>(t.size[0]) * static_cast<double>(t.size[1]) * static_cast<double>(t.size[2]) *
         static_cast<double>(t.size[3]);
}

// The ring reaches about a half of the multiply-adds that a device can do, a thread per pixel a sixteenth.
template <class Params>
double ring_cost(const Params& p, const DeviceLimits& limits) {
  const double taps = static_cast<double>(p.kernel_size[0]) + static_cast<double>(p.kernel_size[1]);
  return multiply_cost(pixels_of(p.input) * taps, 0.5, limits);
}

template <class Params>
double direct_cost(const Params& p, const DeviceLimits& limits) {
  const double taps = static_cast<double>(p.kernel_size[0]) * static_cast<double>(p.kernel_size[1]);
  // Even for a kernel of one tap the tables cost another launch, about 2 microseconds.
  return 2 + multiply_cost(pixels_of(p.input) * taps, 1.0 / 16, limits);
}

const char* ring_cannot(const GaussianParams& p, const DeviceLimits& limits) {
  return gaussian_ring_fits(p, limits) ? nullptr : kTooLarge;
}
const char* sigma_grad_ring_cannot(const GaussianSigmaGradParams& p, const DeviceLimits& limits) {
  return gaussian_sigma_grad_ring_fits(p, limits) ? nullptr : kTooLarge;
}

const Variant<GaussianParams> kGaussianVariants[] = {
    {"gaussian_ring", ring_cannot, ring_cost, gaussian_ring_workspace, gaussian_ring_launch},
    {"gaussian_direct", always, direct_cost, gaussian_direct_workspace, gaussian_direct_launch},
};

const Variant<GaussianSigmaGradParams> kSigmaGradVariants[] = {
    {"gaussian_sigma_grad_ring", sigma_grad_ring_cannot, ring_cost, gaussian_sigma_grad_ring_workspace,
     gaussian_sigma_grad_ring_launch},
    {"gaussian_sigma_grad_direct", always, direct_cost, gaussian_sigma_grad_direct_workspace,
     gaussian_sigma_grad_direct_launch},
};

}  // namespace

int run(const GaussianParams& params, const LaunchContext& context) {
  return choose(kGaussianVariants, params, context.limits).launch(params, context);
}

int64_t workspace_bytes(const GaussianParams& params, const DeviceLimits& limits) {
  return workspace_of(kGaussianVariants, params, limits);
}

void explain(const GaussianParams& params, const DeviceLimits& limits, char* text, int bytes) {
  explain(kGaussianVariants, params, limits, text, bytes);
}

int run(const GaussianSigmaGradParams& params, const LaunchContext& context) {
  return choose(kSigmaGradVariants, params, context.limits).launch(params, context);
}

int64_t workspace_bytes(const GaussianSigmaGradParams& params, const DeviceLimits& limits) {
  return workspace_of(kSigmaGradVariants, params, limits);
}

void explain(const GaussianSigmaGradParams& params, const DeviceLimits& limits, char* text, int bytes) {
  explain(kSigmaGradVariants, params, limits, text, bytes);
}

}  // namespace denoise_ext::cuda
