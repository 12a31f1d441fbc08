// The row-ring convolution's tiles and how its work and shared memory are divided (no CUDA).
#pragma once

#include <cstddef>

#include "../params/conv.h"
#include "../params/launch.h"

namespace denoise_ext::cuda {

// Output channels a block computes at once: two warps side by side take 32 each.
constexpr int kRowRingOutputs = 64;

// As many blocks of the small tile run on a multiprocessor at once, shared memory permitting. Three leave a
// thread 168 registers, of which float's epilogue and rounding would spill some.
constexpr int row_ring_small_blocks(int element_bytes) {
  return element_bytes == 4 ? 2 : 3;
}

// What a block holds at once. A warp computes `rows` rows of 16 pixels and 32 output channels; a block
// has width / 16 warps along x and two along the channels.
struct RowRingTile {
  int width, rows;  // output pixels per step
  int chunk;        // input channels per pass
  int threads;
  int window;        // input rows that a step reads
  int pixels;        // input pixels per row that a step reads
  int row_bytes;     // one input row of one chunk in the ring
  int column_bytes;  // the weights of one column of taps for one chunk and kRowRingOutputs channels
};

// A pass takes 128 bytes of channels: 64 of 16 bits, 32 of float. A 5x5 kernel takes half as many, for a
// column of 5 taps would be 40 KiB.
constexpr RowRingTile row_ring_tile(int element_bytes, int kernel, bool large) {
  RowRingTile t{};
  t.width = large ? 64 : 32;
  t.rows = large ? 4 : 2;
  const int pixel_bytes = kernel == 5 ? 64 : 128;
  t.chunk = pixel_bytes / element_bytes;
  t.threads = t.width / 16 * 2 * 32;
  t.window = t.rows + kernel - 1;
  t.pixels = t.width + kernel - 1;
  t.row_bytes = t.pixels * pixel_bytes;
  t.column_bytes = kernel * kRowRingOutputs * pixel_bytes;
  return t;
}

// A 1x1 kernel is bound by memory and reads no row twice: several small blocks per multiprocessor hide that
// better than a large one. And 5x5 in tf32 is not worth the code of a second tile.
constexpr bool has_large_tile(int element_bytes, int kernel) {
  return kernel == 3 || (kernel == 5 && element_bytes == 2);
}

struct RowRingPlan {
  bool large;
  bool split;  // float32 factors as sums of two tf32 numbers: three products for one
  int element_bytes;
  int kernel;         // taps along each axis
  int top, left;      // padding of the equivalent stride-1 convolution; may be negative
  int output_blocks;  // blocks of kRowRingOutputs output channels
  int chunks;         // passes over the input channels
  int planes;         // chunks in the ring at once: all of them, or one
  int ring_rows;      // rows of each plane
  int weight_slots;   // columns of weights in shared memory: all, or one or two of a stream
  bool vector_input;  // 16-byte accesses are possible, to the input and its mask
  bool vector_output;
  bool vector_residual;
  bool vector_end;  // to the output and a residual, and the activation is a matter of few instructions
  int blocks;       // of the grid
  int64_t groups;   // row groups in all: output blocks x images x strips x groups per strip
  size_t shared_bytes;
};

const char* row_ring_cannot_run(const ConvParams& params, const DeviceLimits& limits);
RowRingPlan row_ring_plan(const ConvParams& params, const DeviceLimits& limits);
double row_ring_cost(const ConvParams& params, const DeviceLimits& limits);
int64_t row_ring_workspace_bytes(const ConvParams& params, const DeviceLimits& limits);

}  // namespace denoise_ext::cuda
