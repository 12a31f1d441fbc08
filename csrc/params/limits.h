// The largest arguments that operators take. Sums and products of a few of them stay far below 2^63, and
// sums of two below 2^31, so that the arithmetic on geometry needs no further checks.
#pragma once

#include <cstdint>

namespace denoise_ext {

// Of strides, paddings and dilations; of the rows and columns of images, padded or not, and of kernels with
// their dilation.
constexpr int64_t kLargestExtent = int64_t{1} << 30;
// Taps of a convolution's kernel: rows times columns. A plan lists them.
constexpr int64_t kMostTaps = int64_t{1} << 24;
constexpr int64_t kMostWeights = int64_t{1} << 31;
// Elements of a convolution's output, stored or not.
constexpr int64_t kMostOutputs = int64_t{1} << 48;

// Rows and columns of a Gaussian window, whose two directions are filtered one after the other.
constexpr int64_t kLargestGaussian = 65535;
// Rows times columns of a Gaussian window on CUDA, whose kernel for large ones visits all of it.
constexpr int64_t kMostCudaGaussianTaps = int64_t{1} << 22;
// Rows and columns of a bilateral window, all of which is visited for each pixel.
constexpr int64_t kLargestBilateral = 1023;
// Channels that a bilateral filter compares: it keeps a number for each.
constexpr int64_t kMostGuideChannels = int64_t{1} << 16;

}  // namespace denoise_ext
