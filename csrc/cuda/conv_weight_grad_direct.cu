// The gradient of a convolution's weight, one block per weight: any geometry, dtype and layout. Threads
// take pixels in a fixed pattern and are added in a fixed tree, so the result is deterministic.
#include "common.cuh"
#include "conv_weight_grad_variants.h"
#include "primitives.cuh"

namespace denoise_ext::cuda {
namespace {

constexpr int kThreads = 256;

template <class Storage, class Acc>
__global__ void __launch_bounds__(kThreads) conv_weight_grad_kernel(ConvWeightGradParams p, int64_t weights) {
  __shared__ Acc sums[kThreads];
  const int64_t rows = p.coarse.size[2], cols = p.coarse.size[3], pixels = p.coarse.size[0] * rows * cols;
  const int64_t group_fine = p.grad_weight.size[1], kh = p.grad_weight.size[2], kw = p.grad_weight.size[3];
  const int64_t group_coarse = p.coarse.size[1] / p.groups;
  for (int64_t i = blockIdx.x; i < weights; i += gridDim.x) {
    const int64_t v = i % kw, u = i / kw % kh, c = i / (kw * kh) % group_fine, k = i / (kw * kh * group_fine);
    const int64_t fine_channel = k / group_coarse * group_fine + c;
    Acc sum = 0;
    for (int64_t pixel = threadIdx.x; pixel < pixels; pixel += kThreads) {
      const int64_t x = pixel % cols, y = pixel / cols % rows, n = pixel / (cols * rows);
      const int64_t sy = y * p.stride[0] + u * p.dilation[0] - p.padding[0];
      const int64_t sx = x * p.stride[1] + v * p.dilation[1] - p.padding[1];
      if (sy < 0 || sx < 0 || sy >= p.fine.size[2] || sx >= p.fine.size[3]) continue;
      sum += to_acc<Acc>(*element<Storage>(p.coarse, n, k, y, x)) *
             to_acc<Acc>(*element<Storage>(p.fine, n, fine_channel, sy, sx));
    }
    sums[threadIdx.x] = sum;
    for (int half = kThreads / 2; half > 0; half /= 2) {
      __syncthreads();
      if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    if (threadIdx.x == 0) *element<Storage>(p.grad_weight, k, c, u, v) = FromAcc<Storage>::convert(sums[0]);
    __syncthreads();
  }
}

}  // namespace

int weight_grad_direct_launch(const ConvWeightGradParams& params, const LaunchContext& context) {
  return with_storage(params.coarse.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    const int64_t* size = params.grad_weight.size;
    const int64_t weights = size[0] * size[1] * size[2] * size[3];
    const int64_t most = 1 << 20;  // the loop covers what a grid of this size leaves
    return launch(conv_weight_grad_kernel<Storage, typename AccOf<Storage>::type>,
                  dim3(static_cast<unsigned>(weights < most ? weights : most)), dim3(kThreads), 0,
                  static_cast<cudaStream_t>(context.stream), params, weights);
  });
}

}  // namespace denoise_ext::cuda
