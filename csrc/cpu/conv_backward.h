// Gradients of the convolutions that are not convolutions themselves: of the weight, and of the
// activation (with the channel sums for bias and PReLU). The gradient with respect to the input is
// run(const ConvParams&) (conv.h) with `transposed` flipped and the same weight.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "../params/conv.h"
#include "conv_plan.h"
#include "isa.h"
#include "threads.h"
#include "weight_grad_partials.h"

namespace denoise_ext::cpu {

// The direct sum: a tile's pixels of both tensors packed, then an outer product for each tap.
struct ConvWeightGradPlan {
  ConvWeightGradParams params;
  WeightGradPartials partials;
  std::vector<ConvTap> taps;  // offset: in the packed fine tile
  // Not depthwise: of each (tap, fine channel) in the packed fine tile, and as many more as a kernel reads.
  std::vector<int64_t> offsets;
  int64_t tile_rows, tile_cols;  // coarse pixels
  int64_t strip_rows;            // of a tile, whose products are summed together
  int64_t tiles_y, tiles_x;      // per image
  PackedAxis fine[2];            // of the packed fine tile
  int64_t fine_channels;
  int64_t fine_elements, coarse_elements;
  size_t scratch_bytes;
};

// The algorithm that a call takes, and why not another.
std::string explain(const ConvWeightGradParams& params, const KernelTable& table);

void run(const ConvWeightGradParams& params, const Threads& threads);

// Rows are cut into strips; a strip's channel sums go to partials of its own, added in order.
struct ActivationGradPlan {
  ActivationGradParams params;
  int64_t strip_rows, strips_per_image;
  const void* slopes;  // (K) below zero, in the accumulation type: PReLU's, or leaky ReLU's
  double* partials;    // [strip][2][K], like params.sums; nullptr where no sums are wanted
};

std::string explain(const ActivationGradParams& params, const KernelTable& table);

void run(const ActivationGradParams& params, const Threads& threads);

}  // namespace denoise_ext::cpu
