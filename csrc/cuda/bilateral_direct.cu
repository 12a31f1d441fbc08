// The joint bilateral filter, one thread per pixel: any radius, number of channels, dtype and layout.
// Always correct, never the fast one.
#include "bilateral.cuh"
#include "bilateral_variants.h"
#include "common.cuh"
#include "primitives.cuh"

namespace denoise_ext::cuda {
namespace {

constexpr int kThreads = 256;

template <class Acc>
__global__ void __launch_bounds__(kThreads, 2) bilateral_direct_kernel(BilateralParams p, int64_t pixels) {
  const int64_t rows = p.input.size[2], cols = p.input.size[3], channels = p.input.size[1];
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < pixels;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t x = i % cols, y = i / cols % rows, n = i / (cols * rows);
    const BilateralScales<Acc> scales = bilateral_scales<Acc>(p, n);
    for (int64_t first = 0; first < channels; first += kChannelChunk) {
      Acc sums[kChannelChunk] = {};
      const Acc total = sum_window(p, scales, n, y, x, first, channels, sums);
#pragma unroll
      for (int c = 0; c < kChannelChunk; ++c)
        if (first + c < channels)
          store_pixel<Acc>(p.output.data, pixel_offset(p.output, n, first + c, y, x), p.output.dtype,
                           sums[c] / total);
    }
  }
}

}  // namespace

int bilateral_direct_launch(const BilateralParams& params, const LaunchContext& context) {
  const int64_t* size = params.input.size;
  const int64_t pixels = size[0] * size[2] * size[3], blocks = (pixels + kThreads - 1) / kThreads;
  // 32 blocks of 256 threads fill a multiprocessor several times over; the loop does the rest.
  const int64_t most = 32 * static_cast<int64_t>(context.limits.multiprocessors);
  const dim3 grid(static_cast<unsigned>(blocks < most ? blocks : most));
  if (params.input.dtype == DType::kFloat64)
    return launch(bilateral_direct_kernel<double>, grid, dim3(kThreads), 0, context.stream, params, pixels);
  return launch(bilateral_direct_kernel<float>, grid, dim3(kThreads), 0, context.stream, params, pixels);
}

}  // namespace denoise_ext::cuda
