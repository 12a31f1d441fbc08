// A convolution, ordinary or transposed, cut into tasks that any ISA's kernel can run.
//
// Both are the same sum over taps:
//   out[y0 + i * out_step][x0 + j * out_step] = sum over taps of in[i * in_step + dy][j * in_step + dx] *
//   w[tap]
// conv2d has one phase (y0 = x0 = 0, out_step 1, in_step = stride). conv_transpose2d has up to
// stride_y * stride_x phases with taps (out_step = stride, in_step 1), each with those taps that reach it:
// the sub-pixel form, in which every output is written once and no multiplication by zero is done. Outputs
// that no tap reaches are phases too, as few as there can be.
//
// A tap that reads nothing but zeros around the image is left out, unless the weights came packed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../params/arithmetic.h"
#include "conv_params.h"
#include "threads.h"

namespace denoise_ext::cpu {

struct KernelTable;

struct ConvTap {
  int64_t dy, dx;  // input position relative to (i * in_step, j * in_step)
  int64_t u, v;    // the weight's row and column
  int64_t offset;  // of the input element from the pixel's first one, in the packed tile
};

struct ConvPhase {
  int64_t out_y0, out_x0;
  int64_t out_step[2];
  int64_t rows, cols;  // outputs of this phase along each axis
  int64_t tap_begin, tap_count;
  int64_t tap_rows, tap_cols;  // tap_count taps, row by row
  int64_t min_dy, max_dy, min_dx, max_dx;
  int64_t tiles_y, tiles_x;
  int64_t task_begin;  // first task of this phase within one (image, channel block)
};

// A run of output channels whose sums fit the vector registers together.
struct ChannelBlock {
  int64_t first;  // in padded channels, a multiple of the lanes unless some are skipped
  int vectors;
  int64_t skipped = 0;  // the first channels, which another block stores
};

// Along one axis, what a packed tile holds of the input that some outputs read. Contiguous: the pixels from
// the first tap's of the first output to the last tap's of the last. Gathered: of each tap the pixels that it
// reads, one per output. That is less where taps or outputs lie far apart.
struct PackedAxis {
  bool gathered;
  int64_t step;    // between the pixels of consecutive outputs
  int64_t pieces;  // that are packed one by one: taps, or one
  int64_t piece;   // pixels of each
  int64_t length;  // pixels in all

  // The place of a tap, the index-th, `distance` pixels from the first.
  int64_t place(int64_t index, int64_t distance) const { return gathered ? index * piece : distance; }
};

// `span`: pixels from the first tap to the last.
PackedAxis packed_axis(int64_t outputs, int64_t in_step, int64_t taps, int64_t span);

struct ConvPlan {
  ConvParams params;
  bool depthwise;           // one input channel per group: lanes run over channels instead of sums over them
  bool few_outputs;         // lanes run over input channels and are summed at the end
  bool in_place_input;      // read from the image, with packed copies of groups of pixels at its border only
  bool depthwise_in_place;  // and its channels fill whole vectors of the image, of which some overlap
  bool in_place_output;     // whole vectors of channels go from the registers to the output
  bool stream;              // past the caches
  bool phases_together;     // a task is a tile of every phase: they fill the same lines of the output
  int phases_at_once;       // and so many are one product: their one tap is the same pixel
  int sides;                // convolutions of which an output is the product: 2 with a gate
  int lanes;                // elements per vector
  int64_t group_inputs, group_outputs;  // channels per group
  int64_t padded_outputs;               // group_outputs (depthwise: all outputs) rounded up to lanes
  int64_t in_step[2];
  std::vector<ConvPhase> phases;
  std::vector<ConvTap> taps;
  std::vector<int64_t> packed_offsets, image_offsets;  // of each tap's input from the phase's first one
  std::vector<ChannelBlock> blocks;
  int64_t tile_rows, tile_cols;  // outputs per tile
  int64_t pixel_group;           // outputs of a row that a kernel may compute at once
  int64_t packed_channels;       // channels of a packed input tile
  // Of a packed input tile (in_place_input: of the input of one group of pixels):
  PackedAxis packed[2];     // along x with slack for the last pixel group
  int64_t packed_elements;  // in all
  int64_t tasks_per_slice;  // tasks of one (image, group or channel block)
  int64_t slices;           // groups, or channel blocks where depthwise
  size_t scratch_bytes;

  // In the accumulation type, filled by run_conv_direct():
  // dense:     [group][tap][group_inputs][padded_outputs], blocks outermost within a (group, phase)
  // depthwise: [tap][padded_outputs]
  // few_outputs: [tap][slice of lanes][group_outputs][lanes]
  const void* weight;
  const void* bias;         // [group][padded_outputs] (depthwise: [padded_outputs]), zeros if absent
  const void* prelu_slope;  // like bias, only for Activation::kPrelu
  const void *gate_weight, *gate_bias;

  int64_t tasks() const { return params.output.size[0] * slices * tasks_per_slice; }
  bool is_double() const { return params.output.dtype == DType::kFloat64; }  // what sums are
};

// Spreads the vectors that hold `channels` evenly over as few register blocks as possible.
std::vector<ChannelBlock> channel_blocks(int64_t channels, int lanes, int accumulators);

// Whether lanes run over the input channels: the output has too few of them to fill a vector.
bool has_few_outputs(const ConvParams& params, int64_t lanes);

ConvPlan make_conv_plan(const ConvParams& params, const KernelTable& table);

// Packs the weight of `params`, of one group, as run_conv_direct() does on every call where it gets none
// packed. Besides the weight its strides and padding count, where transposed. `to` has room for KH * KW * C *
// (K rounded up to whole vectors) elements of the accumulation type.
void pack_weight_direct(const ConvParams& params, const KernelTable& table, void* to);

void run_conv_direct(const ConvParams& params, const Threads& threads);

// Why `params`, which have a gate, cannot be computed, or nullptr.
const char* gate_obstacle(const ConvParams& params, const KernelTable& table);

}  // namespace denoise_ext::cpu
