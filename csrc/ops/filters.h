// Argument checks that the Gaussian and bilateral filters share.
#pragma once

#include "common.h"

namespace denoise_ext::ops {

// The kernel size as an array; raises unless it is two odd numbers >= 1.
std::array<int64_t, 2> odd_kernel_size(const std::vector<int64_t>& kernel_size, const char* op);

// The values of a sigma on the CPU, checked: float32 or float64 of sizes (1 or batch) for `per_image`
// 1, (1 or batch, 2) for `per_image` 2; every value finite and > 0.
std::vector<double> sigma_values(const Tensor& sigma, int64_t batch, int64_t per_image, const char* op,
                                 const char* argument);
Tensor1 sigma_view(const std::vector<double>& values);

// A gradient summed in double as a tensor of sigma's sizes and dtype.
Tensor sigma_gradient(const std::vector<double>& sums, const Tensor& sigma);

// Raises for uint8 input, which has no gradient.
void check_differentiable(const Tensor& input, const char* op);

// A tensor of the sizes and dtype of `like`, channels_last where `like` is.
Tensor empty_like_image(const Tensor& like);

}  // namespace denoise_ext::ops
