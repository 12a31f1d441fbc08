// How the kernels for transposed convolutions of stride 2 cut an image into blocks: shared by the kernels,
// their launcher and the choice among variants.
//
// Output row y = 2 b + f - padding (f = 0 or 1, its phase) takes kernel rows f, f + 2, ... from input
// rows b, b - 1, ...; columns alike. A cell is the 2 x 2 outputs of one (b, b'): it reads the input at
// (b, b') and its neighbours above and to the left, and each weight once.
#pragma once

#include <cstddef>

#include "../params/conv.h"
#include "../params/launch.h"

namespace denoise_ext::cuda {

struct ConvTransposePhases {
  static constexpr int kThreads = 256;
  static constexpr int kRows = 4, kCols = 32;  // cells of a block
  static constexpr int kOutputs = 32;          // output channels of a block
  // Input channels that are in shared memory at a time take 64 bytes per pixel; the pitch of 80 bytes
  // puts 8 neighbouring pixels into different banks.
  static constexpr int kPixelBytes = 64, kPitchBytes = 80;
  // The pixels that a block's cells read: one row more above and one column more to the left.
  static constexpr int kPixels = (kRows + 1) * (kCols + 1), kTileBytes = kPixels * kPitchBytes;
  static constexpr int kTapBytes = 2048;  // weights of one tap: kOutputs x 64 bytes
  int kh, kw;                             // 2 to 4
  int chunks, channel_blocks;             // of input and of output channels
  int top, left;                          // padding
  int first_row, first_col;               // of cells: those of output row and column 0
  int tiles_x, tiles_y;                   // of an image
  // From a block's tile to its next one: images, and rows and columns of tiles.
  int step_images, step_down, step_along;
  // The weights of all chunks stay in shared memory, and a block goes from tile to tile while the pixels of
  // the next chunk are copied. Where two blocks of a multiprocessor have no room for that, a block has one
  // tile, and one chunk at a time.
  bool resident;
  int64_t blocks;  // of the grid: channel_blocks times as many as share the tiles
  size_t shared_bytes;
};

ConvTransposePhases conv_transpose_phases(const ConvParams& params, const DeviceLimits& limits);

const char* conv_transpose_phases_cannot_run(const ConvParams& params, const DeviceLimits& limits);
double conv_transpose_phases_cost(const ConvParams& params, const DeviceLimits& limits);
int64_t conv_transpose_phases_workspace(const ConvParams& params, const DeviceLimits& limits);

}  // namespace denoise_ext::cuda
