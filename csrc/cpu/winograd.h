// Winograd convolution in float32, F(4x4, 3x3) or F(6x6, 3x3) (kernels/winograd*.inl): 3x3 with stride 1, and
// convolutions that fall into such. The outputs of a transposed convolution are phases, one for each residue
// of row and column. The inputs of a convolution of stride 2 are: each phase is an image of its own, and
// their convolutions with at most 3x3 taps are summed, as if they were channels of one image. Where a phase
// has fewer taps, products with weights that are zero are left out: points 0 and infinity see the outer taps
// alone.
//
// The image is cut into tiles of m x m outputs. A block of tiles is one task:
//   V[point][tile][channel]  = B^T d B of every tile's n x n inputs (n = m + 2)
//   M[point][tile][filter]   = V[point] * U[point], a matrix product at each of the n^2 points
// Both lie as [vector of channels][tile][point][lane]: from point to point and from tile to tile it is a
// number that the compiler knows, so neither transforms nor products need registers for these addresses.
//   y                        = A^T M A + bias, residual, activation
// V and M of a block stay in the second-level cache, U = G g G^T streams through it. Filters are taken
// in blocks as wide as the register tile, so M holds one such block; where one block has them all and
// is as wide as V, M takes V's place. The phases of a transposed convolution are further such blocks: they
// share V. Those of an input are further channels of V.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "conv_params.h"
#include "conv_plan.h"
#include "storage.h"
#include "threads.h"

namespace denoise_ext::cpu {

// Pixels first, first + step, ... of each axis, and the row and the column of the weight that belong to the
// three inputs which an output reads, or -1 for a zero.
struct WinogradPhase {
  int64_t first[2];
  int index[2][3];
};

struct WinogradPhases {
  std::vector<WinogradPhase> inputs, outputs;  // one of both has one phase, of all pixels
  int64_t input_step[2], output_step[2];       // between the pixels of a phase
  int64_t dilation[2];  // pixels that far apart are an image of their own, of the input and of the output
  int64_t padding[2];   // an output's first input is this much before its place in its phase
};

// Channels of V whose weights at a point are not all zero: their first row of U, and the vector and the lane
// of V where they begin.
struct WinogradRun {
  int64_t first, channels;
  int64_t vector, lane;
};

// Runs begin .. end of a plan.
struct WinogradRuns {
  int begin, end;
};

struct WinogradPlan {
  ConvParams params;
  WinogradPhases phases;
  int outputs, points;               // m and n, along one axis
  int64_t channels, filters;         // channels of V: those of all phases of the input
  std::vector<ChannelBlock> blocks;  // of filters
  std::vector<WinogradRun> runs;
  std::vector<WinogradRuns> runs_at;  // [phase of the outputs][point]
  int64_t tiles_y, tiles_x, tiles;    // of one phase: per image, and of the whole batch
  int64_t block_tiles;
  int64_t groups;  // of blocks of filters: a task computes one group for a block of tiles

  bool direct_input, direct_coarse;  // inner tiles are read where they lie
  bool direct_output;                // inner tiles are written, and their residual read, where they lie
  bool clamped;                      // the epilogue is max(x + residual, lowest): no activation, or relu last
  bool stream;                       // outputs are written past the caches
  float lowest;

  int64_t part_vectors[2];  // of V: the coarse image's, and those of one phase of the input
  int64_t v_vectors;        // in all
  int64_t vector_step;      // floats from vector to vector of V and of M
  int64_t m_offset, patch_offset, sums_offset;  // floats, in the scratch
  size_t scratch_bytes;
  int64_t input_lines;  // cache lines of the next block's input, for each register tile of a point

  const float* weight;       // [phase][block][point][channel][block's filters]
  const float* bias;         // [filters rounded up], zeros if absent
  const float* prelu_slope;  // like bias

  int64_t tasks() const { return divide_up(tiles, block_tiles) * groups; }
};

// A weight to be transformed.
struct WinogradPackPlan {
  Tensor4 weight;  // (K, C, KH, KW), or (C, K, KH, KW) where transposed
  bool transposed;
  WinogradPhases phases;
  int64_t filters, channels;  // of the weight
  int points;
  std::vector<ChannelBlock> blocks;  // of filters
  float* to;                         // like WinogradPlan::weight
};

// Tiles in one register tile that is `vectors` wide.
constexpr int winograd_register_tiles(int accumulators, int vectors) {
  return accumulators / vectors;
}

// Floats from tile to tile of V and M. One vector more than there are points: tiles a multiple of 4 KiB apart
// would share a set of the first-level cache.
constexpr int64_t winograd_tile_step(int64_t points, int64_t lanes) {
  return (points * points + 1) * lanes;
}

struct WinogradTile {
  int64_t n;
  int64_t first[2];  // pixel of the images that a dilation divides the n-th into
  int64_t y, x;      // first output, counted within the phase
  int64_t y0, x0;    // first input
};

DENOISE_EXT_INLINE WinogradTile winograd_tile(const WinogradPlan& plan, int64_t index) {
  const int64_t row = index / plan.tiles_x;
  const int64_t x = (index - row * plan.tiles_x) * plan.outputs;
  const int64_t image = row / plan.tiles_y;
  const int64_t y = (row - image * plan.tiles_y) * plan.outputs;
  const int64_t* dilation = plan.phases.dilation;
  const int64_t line = image / dilation[1];
  return {
      line / dilation[0],        {line % dilation[0], image % dilation[1]}, y, x, y - plan.phases.padding[0],
      x - plan.phases.padding[1]};
}

// The tile behind `at`, the index-th.
DENOISE_EXT_INLINE WinogradTile winograd_next_tile(const WinogradPlan& plan, const WinogradTile& at,
                                                   int64_t index) {
  const int64_t x = at.x + plan.outputs;
  if (x >= plan.tiles_x * plan.outputs) return winograd_tile(plan, index);
  return {at.n, {at.first[0], at.first[1]}, at.y, x, at.y0, at.x0 + plan.outputs};
}

// m of the algorithms.
constexpr int winograd_outputs(ConvAlgorithm algorithm) {
  if (algorithm == ConvAlgorithm::kWinograd2) return 2;
  return algorithm == ConvAlgorithm::kWinograd6 ? 6 : 4;
}

// Why Winograd cannot compute this convolution at all, or nullptr.
const char* winograd_obstacle(const ConvParams& params);

// Products of one channel and one filter in a tile, of all phases: n^2 less those with zeros.
int64_t winograd_products(const ConvParams& params, int outputs);
// Phases of the input, and of the output.
int64_t winograd_input_phases(const ConvParams& params);
int64_t winograd_output_phases(const ConvParams& params);

// Elements of U for the weight of `params`, of which its weight, strides, padding and `transposed` count.
int64_t winograd_weight_elements(int outputs, const ConvParams& params);

// Fills `to` with U.
void pack_weight_winograd(int outputs, const ConvParams& params, const KernelTable& table, float* to,
                          const Threads& threads);

// Runs the whole convolution, for which winograd_obstacle() found none.
void run_winograd(int outputs, const ConvParams& params, const Threads& threads);

}  // namespace denoise_ext::cpu
