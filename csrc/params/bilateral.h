// The joint bilateral filter and its gradients.
#pragma once

#include "launch.h"
#include "types.h"

namespace denoise_ext {

enum class ColorDistance : int32_t { kL1, kL2 };

// output[p] = sum over q of w(p, q) input[q] / sum over q of w(p, q), q in the window around p,
//   w(p, q) = exp(-d(p, q)^2 / (2 sigma_color^2)) exp(-(dy^2 / sigma_y^2 + dx^2 / sigma_x^2) / 2),
// d: the sum of the guidance channels' absolute differences (L1), or the root of the sum of their
// squares (L2). A zero border takes part in the sums with value and guidance 0.
struct BilateralParams {
  Tensor4 input;        // (N, C, H, W)
  Tensor4 guidance;     // (N, Cg, H, W); the filter without "joint": input itself
  Tensor4 output;       // like input
  Tensor1 sigma_color;  // (1 or N), in the guidance's units
  Tensor1 sigma_space;  // (1 or N, 2) flattened: (sigma_y, sigma_x) of each image, in pixels
  // CUDA: one sigma for all images, by value, where the tensor's data is nullptr
  double sigma_color_value, sigma_space_row[2];
  int64_t kernel_size[2];  // along y and x, odd
  Border border;
  ColorDistance distance;
  bool circle;  // leave out dy^2 + dx^2 > (kernel_size / 2)^2
};

struct BilateralGradParams {
  BilateralParams forward;  // `output` is the forward's result
  Tensor4 grad_output;      // (N, C, H, W)
  // Results; those whose data is nullptr are not wanted.
  Tensor4 grad_input;        // like input
  Tensor4 grad_guidance;     // like guidance
  double* grad_sigma_color;  // as many values as the sigma; one value receives the sum over images
  double* grad_sigma_space;
};

// Entry points of the CUDA build, as in conv.h. A sigma in device memory is not checked.
namespace cuda {

int run(const BilateralParams& params, const LaunchContext& context);
int64_t workspace_bytes(const BilateralParams& params, const DeviceLimits& limits);
void explain(const BilateralParams& params, const DeviceLimits& limits, char* text, int bytes);

int run(const BilateralGradParams& params, const LaunchContext& context);
int64_t workspace_bytes(const BilateralGradParams& params, const DeviceLimits& limits);
void explain(const BilateralGradParams& params, const DeviceLimits& limits, char* text, int bytes);

}  // namespace cuda
}  // namespace denoise_ext
