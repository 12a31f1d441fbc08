// gaussian_blur2d, its adjoint, and its gradient with respect to sigma.
#pragma once

#include "launch.h"
#include "types.h"

namespace denoise_ext {

// output = input, its border extended, correlated along y and x with the normalised
// exp(-(i - centre)^2 / (2 sigma^2)); or, for the gradient, the transpose of that linear map.
struct GaussianParams {
  Tensor4 input;           // (N, C, H, W); adjoint: the gradient of the blurred image
  Tensor4 output;          // like input
  Tensor1 sigma;           // (1 or N, 2) flattened: (sigma_y, sigma_x) of each image, in pixels
  double sigma_row[2];     // CUDA: one sigma for all images, by value, where sigma.data is nullptr
  int64_t kernel_size[2];  // along y and x, odd
  Border border;
  bool adjoint;
};

struct GaussianSigmaGradParams {
  Tensor4 grad_output;  // (N, C, H, W)
  Tensor4 input;        // like grad_output
  Tensor1 sigma;        // as in GaussianParams
  double sigma_row[2];
  double* grad_sigma;  // as many values as sigma; one row of sigma receives the sum over images
  int64_t kernel_size[2];
  Border border;
};

// Entry points of the CUDA build, as in conv.h. A sigma in device memory is not checked.
namespace cuda {

int run(const GaussianParams& params, const LaunchContext& context);
int64_t workspace_bytes(const GaussianParams& params, const DeviceLimits& limits);
void explain(const GaussianParams& params, const DeviceLimits& limits, char* text, int bytes);

int run(const GaussianSigmaGradParams& params, const LaunchContext& context);
int64_t workspace_bytes(const GaussianSigmaGradParams& params, const DeviceLimits& limits);
void explain(const GaussianSigmaGradParams& params, const DeviceLimits& limits, char* text, int bytes);

}  // namespace cuda
}  // namespace denoise_ext
