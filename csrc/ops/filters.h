// Argument checks that the Gaussian and bilateral filters share.
#pragma once

#include "common.h"

namespace denoise_ext::ops {

// The kernel size as an array; raises unless it is two odd numbers from 1 to `largest`.
std::array<int64_t, 2> odd_kernel_size(const std::vector<int64_t>& kernel_size, int64_t largest,
                                       const char* op);

// A sigma as kernels take it.
struct SigmaArgument {
  std::vector<double> values;    // of a sigma on the CPU, checked
  std::optional<Tensor> tensor;  // of a sigma that a CUDA kernel reads
  Tensor1 view;                  // flattened; on the CPU it points to `values`
  double row[2];                 // CUDA: a sigma for all images, by value, and then view.data is nullptr
};

// Checks a sigma: float32 or float64 of sizes (1 or batch) for `per_image` 1, (1 or batch, 2) for
// `per_image` 2; on the CPU every value finite and > 0. for_cuda: one row on the CPU travels by value, so
// that nothing is copied and a CUDA graph can record the call; more rows are read where input lies.
SigmaArgument sigma_argument(const Tensor& sigma, const Tensor& input, int64_t per_image, bool for_cuda,
                             const char* op, const char* argument);

// A gradient of a sigma while it is summed: as many doubles as sigma has values, zero, where input lies.
struct SigmaSums {
  SigmaSums(const Tensor& sigma, const Tensor& input, const char* op);
  // As a tensor of sigma's sizes, dtype and device.
  Tensor gradient(const Tensor& sigma) const;

  Tensor tensor;
  double* data;
};

// Raises for uint8 input, which has no gradient.
void check_differentiable(const Tensor& input, const char* op);

// A tensor of the sizes and dtype of `like`, channels_last where `like` is.
Tensor empty_like_image(const Tensor& like);

}  // namespace denoise_ext::ops
