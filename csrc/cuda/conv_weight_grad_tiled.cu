// The gradient of a dense convolution's weight with ordinary arithmetic: a block sums, for one tap, a
// 64 x 64 tile of (coarse, fine) channels over its part of the pixels, 4 x 4 per thread in registers.
// Any dtype, layout, stride, dilation and number of groups. The blocks of the first tap and fine channels
// also sum the bias' gradient.
#include "conv_weight_grad.cuh"
#include "conv_weight_grad_variants.h"

namespace denoise_ext::cuda {
namespace {

constexpr int kTile = kWeightGradTile;  // channels of either tensor per block
constexpr int kChunk = 16;              // pixels in shared memory at a time
constexpr int kThreads = 256;           // 16 x 16, each with a 4 x 4 piece of the tile
constexpr int kPiece = 4;
// Blocks per multiprocessor to leave registers for: 128 a thread. Left alone, ptxas takes 80 and spills.
constexpr int kBlocks = 2;

// shared[pixel][channel] = value(pixel, channel) for kChunk pixels and kTile channels.
template <class Acc, class Value>
__device__ __forceinline__ void load_chunk(Acc (&shared)[kChunk][kTile], bool channels_innermost,
                                           const Value& value) {
  for (int i = static_cast<int>(threadIdx.x); i < kChunk * kTile; i += kThreads) {
    // Neighbouring threads read neighbouring memory.
    const int channel = channels_innermost ? i % kTile : i / kChunk;
    const int pixel = channels_innermost ? i / kTile : i % kChunk;
    shared[pixel][channel] = value(pixel, channel);
  }
}

template <class Storage, class Acc>
__global__ void __launch_bounds__(kThreads, kBlocks)
    weight_grad_tiled_kernel(ConvWeightGradParams p, Acc* partials, int parts) {
  __shared__ Acc coarse[kChunk][kTile], fine[kChunk][kTile];
  const int64_t group_fine = p.grad_weight.size[1], group_coarse = p.coarse.size[1] / p.groups;
  const int64_t kh = p.grad_weight.size[2], kw = p.grad_weight.size[3];
  const int64_t fine_tiles = (group_fine + kTile - 1) / kTile,
                coarse_tiles = (group_coarse + kTile - 1) / kTile;
  // blockIdx.x: tap, then tile of fine channels, tile of coarse channels, group. blockIdx.y: part.
  int64_t at = blockIdx.x;
  const int64_t v = at % kw, u = at / kw % kh;
  at /= kw * kh;
  const int64_t c0 = at % fine_tiles * kTile, k0 = at / fine_tiles % coarse_tiles * kTile;
  const int64_t group = at / (fine_tiles * coarse_tiles);
  const int64_t cols = p.coarse.size[3], plane = p.coarse.size[2] * cols, pixels = p.coarse.size[0] * plane;
  const int64_t begin = pixels * blockIdx.y / parts, end = pixels * (blockIdx.y + 1) / parts;

  Acc sums[kPiece][kPiece] = {}, bias_sums[kPiece] = {};
  const bool with_bias = p.grad_bias != nullptr && u == 0 && v == 0 && c0 == 0;
  const int row = static_cast<int>(threadIdx.x) / 16, col = static_cast<int>(threadIdx.x) % 16;
  for (int64_t first = begin; first < end; first += kChunk) {
    load_chunk(coarse, p.coarse.stride[1] == 1, [&](int pixel, int channel) {
      const int64_t i = first + pixel, k = k0 + channel;
      if (i >= end || k >= group_coarse) return Acc(0);
      return masked_element<Storage, Acc>(p.coarse, p.coarse_mask, i / plane, group * group_coarse + k,
                                          i % plane / cols, i % cols);
    });
    load_chunk(fine, p.fine.stride[1] == 1, [&](int pixel, int channel) {
      const int64_t i = first + pixel, c = c0 + channel;
      const int64_t y = i % plane / cols * p.stride[0] + u * p.dilation[0] - p.padding[0];
      const int64_t x = i % cols * p.stride[1] + v * p.dilation[1] - p.padding[1];
      if (i >= end || c >= group_fine || y < 0 || x < 0 || y >= p.fine.size[2] || x >= p.fine.size[3])
        return Acc(0);
      return to_acc<Acc>(*element<Storage>(p.fine, i / plane, group * group_fine + c, y, x));
    });
    __syncthreads();
#pragma unroll 4
    for (int pixel = 0; pixel < kChunk; ++pixel) {
      Acc a[kPiece], b[kPiece];
#pragma unroll
      for (int i = 0; i < kPiece; ++i) {
        a[i] = coarse[pixel][row + 16 * i];
        b[i] = fine[pixel][col + 16 * i];
      }
#pragma unroll
      for (int i = 0; i < kPiece; ++i)
#pragma unroll
        for (int j = 0; j < kPiece; ++j) sums[i][j] += a[i] * b[j];
    }
    if (with_bias) {
#pragma unroll
      for (int i = 0; i < kPiece; ++i) {
        Acc sum = 0;
#pragma unroll 4
        for (int pixel = 0; pixel < kChunk; ++pixel) sum += coarse[pixel][row + 16 * i];
        bias_sums[i] += sum;
      }
    }
    __syncthreads();
  }
  Acc* const partial = partials + blockIdx.y * partial_count(p);
  if (with_bias && col == 0) {
#pragma unroll
    for (int i = 0; i < kPiece; ++i)
      if (k0 + row + 16 * i < group_coarse)
        partial[weight_count(p) + group * group_coarse + k0 + row + 16 * i] = bias_sums[i];
  }
#pragma unroll
  for (int i = 0; i < kPiece; ++i)
#pragma unroll
    for (int j = 0; j < kPiece; ++j) {
      const int64_t k = k0 + row + 16 * i, c = c0 + col + 16 * j;
      if (k < group_coarse && c < group_fine)
        partial[(((group * group_coarse + k) * group_fine + c) * kh + u) * kw + v] = sums[i][j];
    }
}

}  // namespace

int weight_grad_tiled_launch(const ConvWeightGradParams& params, const LaunchContext& context) {
  return with_storage(params.coarse.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    using Acc = typename AccOf<Storage>::type;
    const int parts = weight_grad_tiled_parts(params, context.limits);
    Acc* partials = static_cast<Acc*>(context.workspace);
    const int code =
        launch(weight_grad_tiled_kernel<Storage, Acc>,
               dim3(static_cast<unsigned>(weight_grad_tiled_blocks(params)), static_cast<unsigned>(parts)),
               dim3(kThreads), 0, context.stream, params, partials, parts);
    return code != 0 ? code : sum_weight_parts<Storage, Acc>(params, partials, parts, context.stream);
  });
}

}  // namespace denoise_ext::cuda
