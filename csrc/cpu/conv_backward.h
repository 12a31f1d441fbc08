// Gradients of the convolutions that are not convolutions themselves: of the weight, and of the
// activation (with the channel sums for bias and PReLU). The gradient with respect to the input is
// run_conv() (conv.h) with `transposed` flipped and the same weight.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../params/conv.h"
#include "conv_plan.h"
#include "threads.h"

namespace denoise_ext::cpu {

// grad_weight cut into tasks (group or channel block, block of coarse channels, chunk of tiles). Each
// task sums its chunk into a partial result of its own; the partials are added in chunk order, so the
// result does not depend on the number of threads.
struct ConvWeightGradPlan {
  ConvWeightGradParams params;
  bool depthwise;
  int lanes;
  int64_t group_fine, group_coarse;  // channels per group; depthwise: 1 and all
  std::vector<ChannelBlock> blocks;  // of the coarse channels of a group
  std::vector<ConvTap> taps;         // offset: in the packed fine tile
  int64_t tile_rows, tile_cols;      // coarse pixels
  int64_t tiles_y, tiles_x;          // per image
  int64_t chunks;                    // of N * tiles_y * tiles_x tiles
  int64_t fine_cols, fine_channels;  // of the packed fine tile
  int64_t fine_elements, coarse_elements;
  int64_t partial_elements;  // of one task: [tap][group_fine][block's channels], the widest block
  size_t scratch_bytes;
  void* partials;  // [task][partial_elements], accumulation type

  int64_t tasks() const {
    return (depthwise ? 1 : params.groups) * static_cast<int64_t>(blocks.size()) * chunks;
  }
};

void run_conv_weight_grad(const ConvWeightGradParams& params, const Threads& threads);

// Rows are cut into strips; a strip's channel sums go to partials of its own, added in order.
struct ActivationGradPlan {
  ActivationGradParams params;
  int64_t strip_rows, strips_per_image;
  const void* slopes;  // (K) below zero, in the accumulation type: PReLU's, or leaky ReLU's
  double* partials;    // [strip][2][K], like params.sums; nullptr where no sums are wanted
};

void run_activation_grad(const ActivationGradParams& params, const Threads& threads);

}  // namespace denoise_ext::cpu
