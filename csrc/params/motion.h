// block_match, block_warp and recurrent_fuse: motion between two frames, and what is averaged along it.
#pragma once

#include "launch.h"
#include "types.h"

namespace denoise_ext {

// Side of a block in pixels, and how far a block may have come from at each level of the search: +-4 pixels
// of a quarter of the resolution, then +-1 pixel of half of it and +-1 of all of it.
constexpr int64_t kBlock = 8;
constexpr int64_t kCoarseSearch = 4;

// What a vector has to win by in the mean absolute difference, in 8-bit levels: `kStill` so that flat areas
// stay where they are, and a part of sigma, or vectors would follow the noise. The noise in 16 averaged
// samples has a standard deviation of 0.0375 sigma in the mean of 16 differences, and the best of 81 draws
// lies 2.5 of them low: 0.1 sigma. A refinement compares 9 vectors: 0.06 sigma.
constexpr double kCoarseSigma = 0.1, kFineSigma = 0.06, kStill = 0.23;
constexpr double kCoarseWindow = 16, kHalfWindow = 64, kFullWindow = 256;  // pixels
constexpr double kLargestSigma = 1e4;  // penalties of 16 bits; far above all differences
constexpr int kVectorLength = 5;       // what a pixel of a vector costs at a quarter of the resolution

struct BlockMatchParams {
  Tensor4 input, previous;  // (N, 1, H, W), black 0 and white 1 (uint8: 255)
  Tensor4 sigma;            // (N, 1, rows, columns) of blocks: noise of input, 0-255 scale
  int16_t* motion;          // dense (N, rows, columns, 2): (dy, dx) of each block
};

// output[y, x] = input[y + dy, x + dx] with the motion of the block of (y, x), the place clamped to the
// image; or, for the gradient, the transpose of that linear map.
struct BlockWarpParams {
  Tensor4 input, output;  // (N, C, H, W)
  const int16_t* motion;  // dense (N, rows, columns, 2)
  bool adjoint;
};

// With w = gate of the pixel, or 0 where previous_level or level is 0:
//   fused = input + w (previous_fused - input)
//   fused_level = sqrt(((1 - w) level)^2 + (w previous_level)^2)
// and last = previous_last, or input where previous_level is 0.
struct RecurrentFuseParams {
  Tensor4 input;     // (N, C, H, W)
  Tensor4 previous;  // (N, 2 C + 1, H, W): previous_last, previous_fused, previous_level
  Tensor4 gate;      // (N, r r, H / r, W / r)
  Tensor4 level;     // (N, 1, H, W)
  Tensor4 output;    // (N, 2 C + 1, H, W): last, fused, fused_level
};

struct RecurrentFuseGradParams {
  RecurrentFuseParams forward;                               // without output
  Tensor4 grad_output;                                       // like output
  Tensor4 grad_input, grad_previous, grad_gate, grad_level;  // like their tensors; or not given
};

// Entry points of the CUDA build, as in conv.h.
namespace cuda {

int run(const BlockMatchParams& params, const LaunchContext& context);
int64_t workspace_bytes(const BlockMatchParams& params, const DeviceLimits& limits);
void explain(const BlockMatchParams& params, const DeviceLimits& limits, char* text, int bytes);

int run(const BlockWarpParams& params, const LaunchContext& context);
int64_t workspace_bytes(const BlockWarpParams& params, const DeviceLimits& limits);
void explain(const BlockWarpParams& params, const DeviceLimits& limits, char* text, int bytes);

int run(const RecurrentFuseParams& params, const LaunchContext& context);
int64_t workspace_bytes(const RecurrentFuseParams& params, const DeviceLimits& limits);
void explain(const RecurrentFuseParams& params, const DeviceLimits& limits, char* text, int bytes);

int run(const RecurrentFuseGradParams& params, const LaunchContext& context);
int64_t workspace_bytes(const RecurrentFuseGradParams& params, const DeviceLimits& limits);
void explain(const RecurrentFuseGradParams& params, const DeviceLimits& limits, char* text, int bytes);

}  // namespace cuda
}  // namespace denoise_ext
