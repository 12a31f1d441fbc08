// How the kernels for few output channels cut an image into pieces: shared by the kernels, their launcher
// and the choice among variants.
#pragma once

#include <cstddef>

#include "../params/conv.h"
#include "../params/launch.h"

namespace denoise_ext::cuda {

constexpr int kConvLastMaxChannels = 4;

// 16-bit elements, tensor cores. A warp takes a run of output rows of a strip of 30 columns, for which it
// reads 32 columns of input; runs go down a strip and on to the next.
struct ConvLastTensor {
  static constexpr int kWarps = 4, kStrip = 30;
  int channel_blocks;  // of 32 input channels
  int matrices;        // of 8 columns: the 3 * K products of one kernel row; 1 or 2
  int64_t strips_x;
  int64_t rows;  // of all strips of all images
  size_t shared_bytes;
};

ConvLastTensor conv_last_tensor(const ConvParams& params);

// float32. A block takes kCols x kRows outputs and walks through the channels kChannels at a time.
struct ConvLastFloat {
  static constexpr int kThreads = 128, kCols = 32, kRows = 16, kChannels = 16;
  static constexpr int kThreadRows = kRows * kCols / kThreads;
  // Floats per pixel of the tile: 4 more than used, so that neighbouring pixels lie in different banks.
  static constexpr int kPitch = kChannels + 4;
  int64_t tiles_x, tiles_y;
  size_t shared_bytes;
};

ConvLastFloat conv_last_float(const ConvParams& params);

const char* conv_last_cannot_run(const ConvParams& params, const DeviceLimits& limits);
double conv_last_cost(const ConvParams& params, const DeviceLimits& limits);

}  // namespace denoise_ext::cuda
