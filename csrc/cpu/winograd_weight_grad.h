// The gradient of a 3x3 convolution's weight by Winograd's algorithm, the transpose of F(4x4, 3x3).
//
// A tile of 4x4 outputs is y = A^T [(G g G^T) * (B^T d B)] A with g the weight and d the tile's 6x6
// inputs; its derivative with respect to g, applied to a gradient dy and summed over tiles, is
//   dg = G^T [sum over tiles of (A dy A^T) * (B^T d B)] G,
// 36 multiplications for each pair of channels and tile instead of 144.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../params/conv.h"
#include "threads.h"
#include "weight_grad_partials.h"

namespace denoise_ext::cpu {

struct KernelTable;

struct WinogradWeightGradPlan {
  ConvWeightGradParams params;
  WeightGradPartials partials;
  int64_t fine_blocks;              // per group: the fine channels spread evenly
  int64_t tiles_y, tiles_x;         // per image
  int64_t block_tiles;              // tiles transformed before they are multiplied
  bool direct_fine, direct_coarse;  // float32 with adjacent channels: transformed where they lie
  // In scratch, in elements: V (transformed fine tiles) and Z (transformed coarse ones) are
  // [36][block_tiles][row], M (the sums of their products) is [36][v_row][z_row].
  int64_t v_row, v_point, z_row, z_point, m_point;
  int64_t z_offset, m_offset, patch_offset;
  size_t scratch_bytes;

  int64_t tiles() const { return params.coarse.size[0] * tiles_y * tiles_x; }
  int64_t tasks() const { return partials.tasks() * fine_blocks; }
};

// Why the direct sum is taken instead, or nullptr.
const char* winograd_weight_grad_obstacle(const ConvWeightGradParams& params);

void run_winograd_weight_grad(const ConvWeightGradParams& params, const KernelTable& table,
                              const Threads& threads);

}  // namespace denoise_ext::cpu
