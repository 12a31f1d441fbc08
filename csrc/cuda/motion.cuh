// What the motion kernels share.
#pragma once

#include "filters.cuh"
#include "primitives.cuh"

namespace denoise_ext::cuda {

struct ImagePixel {
  int64_t n, c, y, x;
};

// Element `index` of a tensor, neighbours in memory side by side.
__device__ __forceinline__ ImagePixel element_at(const Tensor4& t, int64_t index) {
  const int64_t channels = t.size[1], cols = t.size[3], plane = t.size[2] * cols;
  const int64_t within = index % (channels * plane), n = index / (channels * plane);
  if (t.stride[1] == 1) return {n, within % channels, within / channels / cols, within / channels % cols};
  return {n, within / plane, within % plane / cols, within % cols};
}

template <class Index>
__device__ __forceinline__ Index clamped(Index position, Index size) {
  return position < 0 ? 0 : (position < size ? position : size - 1);
}

__device__ __forceinline__ int smaller(int a, int b) {
  return a < b ? a : b;
}

// Blocks for so many elements, one a thread: enough to fill the device several times over; a loop in the
// kernel does the rest.
inline dim3 grid_for(int64_t elements, int threads, const DeviceLimits& limits) {
  const int64_t blocks = (elements + threads - 1) / threads;
  const int64_t most = 32 * static_cast<int64_t>(limits.multiprocessors);
  return dim3(static_cast<unsigned>(blocks < most ? blocks : most));
}

}  // namespace denoise_ext::cuda
