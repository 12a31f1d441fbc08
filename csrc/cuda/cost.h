// Estimates of a kernel's time, for comparing variants of the same operator only (host code, no CUDA).
#pragma once

#include "../params/launch.h"

namespace denoise_ext::cuda {

// Microseconds to move so many bytes between memory and the chip: 4.3 TB/s over 132 multiprocessors, the
// measured copy bandwidth of an H200; only the ratio to compute_cost matters for a choice.
inline double memory_cost(double bytes, const DeviceLimits& limits) {
  return bytes / (32.6e3 * limits.multiprocessors);
}

// Microseconds for so many float multiply-adds, when `share` of the 128 lanes per multiprocessor at
// 1.5 GHz do one every clock.
inline double multiply_cost(double products, double share, const DeviceLimits& limits) {
  return products / (128.0 * 1500.0 * limits.multiprocessors * share);
}

// The same on the tensor cores, which do 8 times as many products of 16-bit elements.
inline double tensor_cost(double products, double share, const DeviceLimits& limits) {
  return multiply_cost(products / 8.0, share, limits);
}

}  // namespace denoise_ext::cuda
