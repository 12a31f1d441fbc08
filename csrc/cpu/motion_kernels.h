// The kernels of block matching, motion compensation and recurrent fusion: one table per instruction set.
#pragma once

#include <type_traits>

#include "motion.h"

namespace denoise_ext::cpu {

// Pixels of a row that recurrent fusion takes at once: all its lines then stay in a first-level cache.
constexpr int64_t kFuseTile = 512;

struct MotionKernels {
  // One row of blocks each; matches need both pyramids.
  void (*pyramid_rows)(const BlockMatchPlan& plan, int64_t pyramid, int64_t row);
  void (*match_row)(const BlockMatchPlan& plan, int64_t row, void* scratch);
  void (*warp_row)(const BlockWarpParams& params, int64_t image, int64_t row);  // one row of blocks
  // All of a plane, whose pixels may all be added to one; scratch holds the plane in the type of its sums.
  void (*warp_plane_adjoint)(const BlockWarpParams& params, int64_t image, int64_t channel, void* scratch);
  // One row of pixels.
  void (*fuse_row_f32)(const RecurrentFuseParams& params, int64_t image, int64_t y, void* scratch);
  void (*fuse_row_f64)(const RecurrentFuseParams& params, int64_t image, int64_t y, void* scratch);
  void (*fuse_grad_row_f32)(const RecurrentFuseGradParams& params, int64_t image, int64_t y, void* scratch);
  void (*fuse_grad_row_f64)(const RecurrentFuseGradParams& params, int64_t image, int64_t y, void* scratch);
};

// Scratch of match_row, and of the fuse rows (twelve lines of a tile, in the type of sums).
inline int64_t match_scratch_bytes(const BlockMatchPlan& plan) {
  return 4 * ((plan.columns + 1) * 2 + 2 * kRowSlack);
}
constexpr int64_t kFuseScratchBytes = 12 * kFuseTile * 8;

}  // namespace denoise_ext::cpu
