#include "winograd_weight_grad.h"

#include <algorithm>
#include <vector>

#include "isa.h"
#include "winograd_kernels.h"

namespace denoise_ext::cpu {
namespace {

constexpr int64_t kOutputs = 4, kInputs = 6, kPoints = 36;
// Fewer channels than this leave the transforms more work than the products save.
constexpr int64_t kLeastChannels = 16;
// M, [36][fine][coarse], of a block of channels: at 64 x 64 it takes 576 KiB of a 1 MiB cache, and V and Z
// of 16 tiles as much as is left.
constexpr int64_t kMostCoarse = 96, kMostProducts = 72 * 64, kBlockTiles = 16;
// Points at a power of two bytes from each other would share the sets of a cache.
constexpr int64_t kPointPadding = 16;

int64_t padded(int64_t elements) {
  return divide_up(elements, 16) * 16 + kPointPadding;
}

// As few blocks as kMostCoarse allows, of vectors spread evenly.
std::vector<ChannelBlock> coarse_blocks(int64_t channels, int lanes) {
  const int64_t vectors = divide_up(channels, lanes), count = divide_up(vectors * lanes, kMostCoarse);
  std::vector<ChannelBlock> blocks;
  for (int64_t b = 0; b < count; ++b) {
    const int64_t first = vectors * b / count, last = vectors * (b + 1) / count;
    blocks.push_back({first * lanes, static_cast<int>(last - first)});
  }
  return blocks;
}

bool is_direct(const Tensor4& tensor) {
  return tensor.dtype == DType::kFloat32 && tensor.stride[1] == 1;
}

void lay_out_scratch(WinogradWeightGradPlan& plan) {
  plan.v_point = padded(plan.block_tiles * plan.v_row);
  plan.z_point = padded(plan.block_tiles * plan.z_row);
  plan.m_point = padded(plan.v_row * plan.z_row);
  plan.z_offset = kPoints * plan.v_point;
  plan.m_offset = plan.z_offset + kPoints * plan.z_point;
  plan.patch_offset = plan.m_offset + kPoints * plan.m_point;
  const int64_t patch = kInputs * kInputs * std::max(plan.v_row, plan.z_row);
  plan.scratch_bytes = static_cast<size_t>(plan.patch_offset + patch) * sizeof(float);
}

WinogradWeightGradPlan make_plan(const ConvWeightGradParams& params, const KernelTable& table) {
  WinogradWeightGradPlan plan{};
  plan.params = params;
  const int lanes = table.vector_bytes / static_cast<int>(sizeof(float));
  plan.partials = weight_grad_partials(params, lanes);
  plan.tiles_y = divide_up(params.coarse.size[2], kOutputs);
  plan.tiles_x = divide_up(params.coarse.size[3], kOutputs);
  const std::vector<ChannelBlock> blocks = coarse_blocks(plan.partials.group_coarse, lanes);
  for (const ChannelBlock& block : blocks)
    plan.z_row = std::max(plan.z_row, block.vectors * static_cast<int64_t>(lanes));
  plan.fine_blocks = divide_up(plan.partials.group_fine * plan.z_row, kMostProducts);
  plan.v_row = divide_up(plan.partials.group_fine, plan.fine_blocks);
  plan.block_tiles = kBlockTiles;
  cut_weight_grad(plan.partials, blocks, divide_up(plan.tiles(), plan.block_tiles));
  plan.direct_fine = is_direct(params.fine);
  plan.direct_coarse = is_direct(params.coarse);
  lay_out_scratch(plan);
  return plan;
}

}  // namespace

const char* winograd_weight_grad_obstacle(const ConvWeightGradParams& params) {
  for (int axis : {0, 1}) {
    if (params.grad_weight.size[2 + axis] != 3) return "the kernel is not 3x3";
    if (params.stride[axis] != 1 || params.dilation[axis] != 1) return "stride or dilation is not 1";
  }
  if (params.precision == Precision::kStrict) return "precision is 'strict'";
  if (params.coarse.dtype == DType::kFloat64) return "float64 is computed directly";
  const int64_t fine = params.fine.size[1] / params.groups, coarse = params.coarse.size[1] / params.groups;
  if (std::min(fine, coarse) < kLeastChannels) return "a group has fewer than 16 channels";
  // Tiles run past the image's edge: at the smallest sizes that costs what the algorithm saves.
  const int64_t rows = params.coarse.size[2], cols = params.coarse.size[3];
  const int64_t tiles = divide_up(rows, kOutputs) * divide_up(cols, kOutputs);
  return 2 * kPoints * tiles > 9 * rows * cols ? "the image fills too little of its 4x4 tiles" : nullptr;
}

void run_winograd_weight_grad(const ConvWeightGradParams& params, const KernelTable& table,
                              const Threads& threads) {
  WinogradWeightGradPlan plan = make_plan(params, table);
  run_weight_grad(
      plan.partials, plan.tasks(), plan.scratch_bytes, threads,
      [&](int64_t index, void* scratch) { table.winograd->weight_grad_task(plan, index, scratch); });
}

}  // namespace denoise_ext::cpu
