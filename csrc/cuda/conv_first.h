// How the kernels for few input channels cut an image into blocks: shared by the kernels, their launcher
// and the choice among variants.
#pragma once

#include <cstddef>

#include "../params/conv.h"
#include "../params/launch.h"

namespace denoise_ext::cuda {

constexpr int kConvFirstMaxChannels = 4;

// 16-bit elements, tensor cores. The products of an output are numbered by (kernel row, kernel column,
// input channel), the channels filled up to 2 or 4 with zeros, and their number to `steps` times 16.
struct ConvFirstTensor {
  static constexpr int kThreads = 256, kRows = 8, kCols = 64;
  int channel_pairs;  // 1 or 2 words of two channels per input pixel
  int steps;
  int channel_blocks;  // of 32 output channels
  int in_rows, in_cols;
  int64_t tiles_x, tiles_y, tiles;
  size_t shared_bytes;
};

ConvFirstTensor conv_first_tensor(const ConvParams& params);

// float32. A block takes `vectors` vectors of 4 output channels; a thread 8 output columns of one vector.
struct ConvFirstFloat {
  static constexpr int kThreads = 256, kRows = 16, kCols = 64, kPixels = 8;
  int vectors;  // 2, 4, 8 or 16
  int in_rows;
  int in_pitch;  // floats per row, a multiple of 4
  int64_t tiles_x, tiles_y, channel_blocks;
  size_t shared_bytes;
};

ConvFirstFloat conv_first_float(const ConvParams& params);

const char* conv_first_cannot_run(const ConvParams& params, const DeviceLimits& limits);
double conv_first_cost(const ConvParams& params, const DeviceLimits& limits);

}  // namespace denoise_ext::cuda
