// The kernels of normalisation: one table per instruction set.
#pragma once

#include "norm.h"

namespace denoise_ext::cpu {

// Pixels of a tile [channel][pixels].
constexpr int64_t kNormLine = 64;

struct NormKernels {
  void (*layer_norm_piece)(const LayerNormPlan& plan, int64_t piece, void* scratch);
  // One strip of rows: its sums, and its results.
  void (*group_norm_sums)(const GroupNormPlan& plan, int64_t strip, void* scratch);
  void (*group_norm_strip)(const GroupNormPlan& plan, int64_t strip, void* scratch);
};

}  // namespace denoise_ext::cpu
