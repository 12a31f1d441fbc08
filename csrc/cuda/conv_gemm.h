// A convolution as a product of matrices, for conv_tiled and conv_gemm_mma: how it is one, and how it is cut
// into tiles (no CUDA).
//
// A row of the product is an output pixel, a column an output channel of one group. The sum runs over terms:
// the taps that reach the pixel, and in each the input channels of the group. Nothing is copied to form the
// matrices: a term's element of a row lies `offset` behind the pixel's first one, and a table has the
// offsets.
//
// A transposed convolution is divided into phases, one for each residue of the output's row and column by the
// stride. Every output of a phase is reached by the same taps, and its neighbour in the phase reads the
// neighbouring input. So a phase is a convolution of stride 1, and reads no zeros that a stride put in.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../params/conv.h"
#include "../params/launch.h"

namespace denoise_ext::cuda {

constexpr int kGemmMostTaps = 11;    // rows or columns of a kernel: bits of GemmPixel::taps
constexpr int kGemmMostPhases = 16;  // along one axis
constexpr int kGemmRowBytes = 64;    // of a row of either matrix in shared memory: one chunk of terms

// What a block computes, and with what.
struct ConvGemmTile {
  int pixels, outputs;  // its rows and columns of the product
  int threads;
  int stages;         // chunks in shared memory at once
  int element_bytes;  // of a factor in shared memory
};

constexpr int conv_gemm_chunk(const ConvGemmTile& tile) {
  return kGemmRowBytes / tile.element_bytes;  // terms
}

// Multiply-adds in float: 64 output channels, or 8 of layers with at most 32, of which half a tile or more
// would be idle.
constexpr ConvGemmTile kTiledWide = {128, 64, 128, 2, 4};
constexpr ConvGemmTile kTiledNarrow = {256, 8, 128, 2, 4};
constexpr int kTiledNarrowMost = 32;
// The tensor cores: factors of 16 bits, or tf32.
constexpr ConvGemmTile kGemmTensor16 = {128, 64, 128, 3, 2};
constexpr ConvGemmTile kGemmTensor32 = {128, 64, 128, 3, 4};

// One phase along one axis. Its output number i is row (column) first + i * output_step. Its tap number t is
// tap + t * tap_step of the weight, and reads row base + i * input_step + t * input_tap_step of the input.
struct ConvGemmPhase {
  int first, count;
  int tap, taps;
  int base;
};
struct ConvGemmAxis {
  ConvGemmPhase phase[kGemmMostPhases];
  int phases;
  int output_step, tap_step, input_step, input_tap_step;
};

struct ConvGemmPlan {
  ConvGemmAxis axis[2];  // rows, columns
  int inputs, outputs;   // channels of a group
  int output_blocks;     // of a group
  int chunks;            // of the phase with the most terms
  int64_t tiles;         // of the phase with the most pixels
  int64_t blocks;        // of the grid
  bool vector_input;     // 16 bytes of neighbouring channels are 16 bytes of factors
  bool wide_output;
  int64_t table_bytes, weight_bytes;  // of the workspace, in this order
  size_t shared_bytes;
};

ConvGemmPlan conv_gemm_plan(const ConvParams& params, const ConvGemmTile& tile);

ConvGemmTile conv_tiled_tile(const ConvParams& params);
const char* conv_tiled_cannot_run(const ConvParams& params, const DeviceLimits& limits);
double conv_tiled_cost(const ConvParams& params, const DeviceLimits& limits);
int64_t conv_tiled_workspace(const ConvParams& params, const DeviceLimits& limits);

ConvGemmTile conv_gemm_mma_tile(const ConvParams& params);
const char* conv_gemm_mma_cannot_run(const ConvParams& params, const DeviceLimits& limits);
double conv_gemm_mma_cost(const ConvParams& params, const DeviceLimits& limits);
int64_t conv_gemm_mma_workspace(const ConvParams& params, const DeviceLimits& limits);

}  // namespace denoise_ext::cuda
