// Launchers of the Gaussian kernels; each is a row of a table in gaussian_variants.cpp.
#pragma once

#include "../params/gaussian.h"
#include "../params/launch.h"

namespace denoise_ext::cuda {

// The filter and its adjoint. _ring: while its rows fit shared memory; _direct: any kernel size.
bool gaussian_ring_fits(const GaussianParams& params, const DeviceLimits& limits);
int64_t gaussian_ring_workspace(const GaussianParams& params, const DeviceLimits& limits);
int gaussian_ring_launch(const GaussianParams& params, const LaunchContext& context);
int64_t gaussian_direct_workspace(const GaussianParams& params, const DeviceLimits& limits);
int gaussian_direct_launch(const GaussianParams& params, const LaunchContext& context);

// Sigma's gradient.
bool gaussian_sigma_grad_ring_fits(const GaussianSigmaGradParams& params, const DeviceLimits& limits);
int64_t gaussian_sigma_grad_ring_workspace(const GaussianSigmaGradParams& params, const DeviceLimits& limits);
int gaussian_sigma_grad_ring_launch(const GaussianSigmaGradParams& params, const LaunchContext& context);
int64_t gaussian_sigma_grad_direct_workspace(const GaussianSigmaGradParams& params,
                                             const DeviceLimits& limits);
int gaussian_sigma_grad_direct_launch(const GaussianSigmaGradParams& params, const LaunchContext& context);

// The second stage of sigma's gradient: grad_sigma[2 row + axis] = the sum of partials[axis][row's part of
// `count`], count / rows each, in a fixed order. rows: 1 or the number of images.
int gaussian_sum_partials_launch(const double* partials, double* grad_sigma, int64_t count, int64_t rows,
                                 void* stream);

}  // namespace denoise_ext::cuda
