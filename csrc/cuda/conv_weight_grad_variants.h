// Launchers of the weight-gradient kernels and what host and device agree on; each launcher is a row of
// the table in conv_weight_grad_variants.cpp.
#pragma once

#include "../params/conv.h"
#include "../params/launch.h"

namespace denoise_ext::cuda {

// How the kernels that gather single elements find a tensor's channels and pixels.
struct WeightGradLayout {
  bool coarse_vectors, fine_vectors;            // 16-byte accesses are possible
  bool coarse_along_pixels, fine_along_pixels;  // else: whether pixels are closer to each other than channels
};
WeightGradLayout weight_grad_layout(const ConvWeightGradParams& params);

// Coarse channels x columns (taps and fine channels) that a block sums, in the gathering kernels.
struct WeightGradTile {
  int rows, cols;
};
int64_t weight_grad_tile_blocks(const ConvWeightGradParams& params, const WeightGradTile& tile);
int weight_grad_tile_parts(const ConvWeightGradParams& params, const WeightGradTile& tile,
                           const DeviceLimits& limits);

// Tensor cores, any geometry and layout: fp16, bf16 and float32 in tf32.
constexpr WeightGradTile kWeightGradGemmTile{64, 128}, kWeightGradGemmThinTile{16, 256};
WeightGradTile weight_grad_gemm_tile(const ConvWeightGradParams& params);
int weight_grad_gemm_launch(const ConvWeightGradParams& params, const LaunchContext& context);

// Ordinary arithmetic, any geometry and layout: float32, bf16 and float64. The thin tile: float32 alone.
constexpr WeightGradTile kWeightGradTiledTile{64, 128}, kWeightGradTiledThinTile{4, 256},
    kWeightGradTiledDoubleTile{64, 64};
WeightGradTile weight_grad_tiled_tile(const ConvWeightGradParams& params);
int weight_grad_tiled_launch(const ConvWeightGradParams& params, const LaunchContext& context);

// Any case; meant for few channels per group: so many taps of one pair of channels per thread.
constexpr int kWeightGradTaps = 9;
constexpr int kWeightGradTapsThreads = 256;
// Pairs of channels that lie beside each other in a block: a power of 2, at most 32.
int weight_grad_taps_pairs(const ConvWeightGradParams& params);
int64_t weight_grad_taps_blocks(const ConvWeightGradParams& params);
int weight_grad_taps_parts(const ConvWeightGradParams& params, const DeviceLimits& limits);
int weight_grad_taps_launch(const ConvWeightGradParams& params, const LaunchContext& context);

// Tensor cores: fp16 and bf16, channels_last, 3x3 and 1x1, stride 1.
constexpr int kWeightGradMmaCoarse = 64, kWeightGradMmaFine = 64, kWeightGradMmaPixels = 64;
// Blocks that run on a multiprocessor at once, as their registers allow.
constexpr int weight_grad_mma_resident(int64_t size) {
  return size == 3 ? 1 : 2;
}
int64_t weight_grad_mma_blocks(const ConvWeightGradParams& params);
int weight_grad_mma_parts(const ConvWeightGradParams& params, const DeviceLimits& limits);
int weight_grad_mma_launch(const ConvWeightGradParams& params, const LaunchContext& context);

}  // namespace denoise_ext::cuda
