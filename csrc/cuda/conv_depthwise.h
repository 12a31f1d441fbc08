// How the depthwise kernels cut an image into blocks: shared by the kernels, their launchers and the
// choice among variants.
#pragma once

#include <cstddef>

#include "../params/conv.h"
#include "../params/launch.h"

namespace denoise_ext::cuda {

constexpr int kDepthwiseMaxKernel = 7;

// Channels innermost. A block takes `vectors` 16-byte vectors of channels, `rows` output rows and
// 4 * 32 / vectors output columns; a warp one row of that, a lane 4 columns of one vector.
struct DepthwiseRows {
  static constexpr int kPixels = 4;  // output columns of a lane
  int vectors, vectors_log2;         // 1, 2, 4 or 8, so that a warp reads up to 128 B of each pixel
  int rows, cols;                    // of output
  int in_rows, in_cols;              // of input under them
  // After every kPixels * stride pixels the tile has an empty one: the pixels that the lanes of a warp
  // read together then lie in different banks.
  int slots;
  int64_t tiles_x, tiles_y, channel_blocks;
  size_t shared_bytes;
};

DepthwiseRows depthwise_rows(const ConvParams& params);

// Columns innermost: a block takes kRows x kCols outputs of one plane; a thread kThreadRows rows of a
// column.
struct DepthwisePlanes {
  static constexpr int kThreads = 256, kCols = 64, kThreadRows = 8;
  static constexpr int kRows = kThreads / kCols * kThreadRows;
  int in_rows, in_cols;
  int64_t tiles_x, tiles_y;
  size_t shared_bytes;
};

DepthwisePlanes depthwise_planes(const ConvParams& params);

const char* conv_depthwise_rows_cannot_run(const ConvParams& params, const DeviceLimits& limits);
double conv_depthwise_rows_cost(const ConvParams& params, const DeviceLimits& limits);
const char* conv_depthwise_planes_cannot_run(const ConvParams& params, const DeviceLimits& limits);
double conv_depthwise_planes_cost(const ConvParams& params, const DeviceLimits& limits);

}  // namespace denoise_ext::cuda
