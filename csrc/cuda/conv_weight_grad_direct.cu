// The gradient of a convolution's weight and bias, one block per value: any geometry, dtype and layout.
// Threads take pixels in a fixed pattern and are added in a fixed tree, so the result is deterministic.
#include "conv_weight_grad.cuh"
#include "conv_weight_grad_variants.h"

namespace denoise_ext::cuda {
namespace {

constexpr int kThreads = 256;
// Blocks per multiprocessor to leave registers for: 80 a thread. Left alone, ptxas takes 64 and spills.
constexpr int kBlocks = 3;

template <class Storage, class Acc>
__global__ void __launch_bounds__(kThreads, kBlocks) conv_weight_grad_kernel(ConvWeightGradParams p) {
  __shared__ Acc sums[kThreads];
  const int64_t rows = p.coarse.size[2], cols = p.coarse.size[3], pixels = p.coarse.size[0] * rows * cols;
  const int64_t group_fine = p.grad_weight.size[1], kh = p.grad_weight.size[2], kw = p.grad_weight.size[3];
  const int64_t group_coarse = p.coarse.size[1] / p.groups;
  const int64_t weights = weight_count(p), values = partial_count(p);
  // The values' numbers: the weights', then the biases'.
  for (int64_t i = blockIdx.x; i < values; i += gridDim.x) {
    const bool is_bias = i >= weights;
    const int64_t v = i % kw, u = i / kw % kh, c = i / (kw * kh) % group_fine;
    const int64_t k = is_bias ? i - weights : i / (kw * kh * group_fine);
    const int64_t fine_channel = k / group_coarse * group_fine + c;
    Acc sum = 0;
    for (int64_t pixel = threadIdx.x; pixel < pixels; pixel += kThreads) {
      const int64_t x = pixel % cols, y = pixel / cols % rows, n = pixel / (cols * rows);
      const int64_t sy = y * p.stride[0] + u * p.dilation[0] - p.padding[0];
      const int64_t sx = x * p.stride[1] + v * p.dilation[1] - p.padding[1];
      const bool inside = sy >= 0 && sx >= 0 && sy < p.fine.size[2] && sx < p.fine.size[3];
      if (!inside && !is_bias) continue;
      const Acc g = masked_element<Storage, Acc>(p.coarse, p.coarse_mask, n, k, y, x);
      sum += is_bias ? g : g * to_acc<Acc>(*element<Storage>(p.fine, n, fine_channel, sy, sx));
    }
    sums[threadIdx.x] = sum;
    for (int half = kThreads / 2; half > 0; half /= 2) {
      __syncthreads();
      if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    if (threadIdx.x == 0) {
      Storage* const to =
          is_bias ? static_cast<Storage*>(p.grad_bias) + k : element<Storage>(p.grad_weight, k, c, u, v);
      *to = FromAcc<Storage>::convert(sums[0]);
    }
    __syncthreads();
  }
}

}  // namespace

int weight_grad_direct_launch(const ConvWeightGradParams& params, const LaunchContext& context) {
  return with_storage(params.coarse.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    const int64_t values = partial_count(params);
    const int64_t most = 1 << 20;  // the loop covers what a grid of this size leaves
    return launch(conv_weight_grad_kernel<Storage, typename AccOf<Storage>::type>,
                  dim3(static_cast<unsigned>(values < most ? values : most)), dim3(kThreads), 0,
                  static_cast<cudaStream_t>(context.stream), params);
  });
}

}  // namespace denoise_ext::cuda
