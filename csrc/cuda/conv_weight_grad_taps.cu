// The gradient of a convolution's weight where a group has few channels, as of a depthwise one: nothing to
// multiply matrices of. Any geometry, layout and dtype.
//
// A thread adds up kWeightGradTaps taps of one pair of a coarse and a fine channel over every so many
// pixels. Neighbouring threads have neighbouring pairs where channels lie beside each other, else
// neighbouring pixels. Of a pixel whose taps are all inside the image the loads are asked for together.
#include "conv_weight_grad.cuh"
#include "conv_weight_grad_variants.h"

namespace denoise_ext::cuda {
namespace {

constexpr int kTaps = kWeightGradTaps, kThreads = kWeightGradTapsThreads;
// Blocks per multiprocessor to leave registers for: 128 a thread.
constexpr int kBlocks = 2;

template <class Storage, class Acc>
__global__ void __launch_bounds__(kThreads, kBlocks)
    weight_grad_taps_kernel(ConvWeightGradParams p, Acc* partials, int parts, int pairs) {
  __shared__ Acc sums[kTaps + 1][kThreads];
  const int64_t group_fine = p.grad_weight.size[1], group_coarse = p.coarse.size[1] / p.groups;
  const int kw = static_cast<int>(p.grad_weight.size[3]),
            all_taps = static_cast<int>(p.grad_weight.size[2]) * kw;
  const int chunks = (all_taps + kTaps - 1) / kTaps;
  const int thread = static_cast<int>(threadIdx.x), lanes = kThreads / pairs;
  const int first_tap = static_cast<int>(blockIdx.x % chunks) * kTaps;
  const int taps = all_taps - first_tap < kTaps ? all_taps - first_tap : kTaps;
  const int64_t pair = blockIdx.x / chunks * pairs + thread % pairs;
  const bool exists = pair < p.coarse.size[1] * group_fine;
  const int64_t k = exists ? pair / group_fine : 0, c = exists ? pair % group_fine : 0;
  const bool with_bias = p.grad_bias != nullptr && first_tap == 0 && c == 0;
  const int64_t pixels = p.coarse.size[0] * p.coarse.size[2] * p.coarse.size[3];
  const int64_t begin = pixels * blockIdx.y / parts, end = pixels * (blockIdx.y + 1) / parts;
  const int64_t fine_channel = k / group_coarse * group_fine + c;

  // Of the taps from a pixel's own place: rows, columns, elements.
  int dy[kTaps], dx[kTaps];
  int64_t offset[kTaps];
#pragma unroll
  for (int i = 0; i < kTaps; ++i) {
    const int tap = first_tap + (i < taps ? i : 0);
    dy[i] = tap / kw * static_cast<int>(p.dilation[0]);
    dx[i] = tap % kw * static_cast<int>(p.dilation[1]);
    offset[i] = dy[i] * p.fine.stride[2] + dx[i] * p.fine.stride[3];
  }
  const int rows = static_cast<int>(p.fine.size[2]), cols = static_cast<int>(p.fine.size[3]);
  const int last_dy = (first_tap + taps - 1) / kw * static_cast<int>(p.dilation[0]);
  const int last_dx = (kw - 1) * static_cast<int>(p.dilation[1]);

  Acc sum[kTaps] = {}, bias = 0;
  const int64_t first = begin + thread / pairs;
  PixelWalk walk(p.coarse.size[2], p.coarse.size[3], first, lanes);
  for (int64_t pixel = first; exists && pixel < end; pixel += lanes, walk.advance()) {
    const Acc g = masked_element<Storage, Acc>(p.coarse, p.coarse_mask, walk.n, k, walk.y, walk.x);
    bias += g;
    // 32 bits have room: strides, padding and extents are at most 2^30 (params/limits.h).
    const int y = static_cast<int>(walk.y * p.stride[0] - p.padding[0]);
    const int x = static_cast<int>(walk.x * p.stride[1] - p.padding[1]);
    const Storage* const from = static_cast<const Storage*>(p.fine.data) + walk.n * p.fine.stride[0] +
                                fine_channel * p.fine.stride[1] + y * p.fine.stride[2] + x * p.fine.stride[3];
    if (taps == kTaps && y + dy[0] >= 0 && y + last_dy < rows && x >= 0 && x + last_dx < cols) {
#pragma unroll
      for (int i = 0; i < kTaps; ++i) sum[i] += g * to_acc<Acc>(from[offset[i]]);
      continue;
    }
#pragma unroll
    for (int i = 0; i < kTaps; ++i)
      if (i < taps && y + dy[i] >= 0 && y + dy[i] < rows && x + dx[i] >= 0 && x + dx[i] < cols)
        sum[i] += g * to_acc<Acc>(from[offset[i]]);
  }

#pragma unroll
  for (int i = 0; i < kTaps; ++i) sums[i][thread] = sum[i];
  sums[kTaps][thread] = bias;
  for (int half = lanes / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread >= half * pairs) continue;
#pragma unroll
    for (int i = 0; i <= kTaps; ++i) sums[i][thread] += sums[i][thread + half * pairs];
  }
  if (thread >= pairs || !exists) return;
  Acc* const partial = partials + blockIdx.y * partial_count(p);
  if (with_bias) partial[weight_count(p) + k] = sums[kTaps][thread];
  for (int i = 0; i < taps; ++i) partial[pair * all_taps + first_tap + i] = sums[i][thread];
}

}  // namespace

int weight_grad_taps_launch(const ConvWeightGradParams& params, const LaunchContext& context) {
  return with_storage(params.coarse.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    using Acc = typename AccOf<Storage>::type;
    const int parts = weight_grad_taps_parts(params, context.limits);
    Acc* const partials = static_cast<Acc*>(context.workspace);
    const dim3 grid(static_cast<unsigned>(weight_grad_taps_blocks(params)), static_cast<unsigned>(parts));
    const int code = launch(weight_grad_taps_kernel<Storage, Acc>, grid, dim3(kThreads), 0, context.stream,
                            params, partials, parts, weight_grad_taps_pairs(params));
    return code != 0 ? code : sum_weight_parts<Storage, Acc>(params, partials, parts, context.stream);
  });
}

}  // namespace denoise_ext::cuda
