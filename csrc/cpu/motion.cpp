#include "motion.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "motion_kernels.h"
#include "storage.h"

namespace denoise_ext::cpu {
namespace {

MatchPenalty penalty_of(double sigma) {
  const double level = sigma > 0 ? std::min(sigma, kLargestSigma) : 0.0;  // NaN: 0
  const auto rounded = [](double value) { return static_cast<int32_t>(std::nearbyint(value)); };
  return {rounded(kCoarseWindow * kCoarseSigma * level),
          rounded(kHalfWindow * kStill) + rounded(kHalfWindow * kFineSigma * level),
          rounded(kFullWindow * kStill) + rounded(kFullWindow * kFineSigma * level)};
}

void set_penalties(const Tensor4& sigma, int64_t image, std::vector<MatchPenalty>& penalties) {
  penalties.clear();
  with_storage(sigma.dtype, [&](auto storage) {
    const auto* data = static_cast<const decltype(storage)*>(sigma.data);
    data += image * sigma.stride[0];
    double known = 0;
    MatchPenalty penalty = penalty_of(known);
    for (int64_t y = 0; y < sigma.size[2]; ++y)
      for (int64_t x = 0; x < sigma.size[3]; ++x) {
        const double level = load_as<double>(data[y * sigma.stride[2] + x * sigma.stride[3]]);
        if (level != known) penalty = penalty_of(known = level);  // mostly one level for many blocks
        penalties.push_back(penalty);
      }
  });
}

BlockMatchPlan make_plan(const BlockMatchParams& params) {
  BlockMatchPlan plan{};
  plan.frames[0] = params.input;
  plan.frames[1] = params.previous;
  plan.rows = divide_up(params.input.size[2], kBlock);
  plan.columns = divide_up(params.input.size[3], kBlock);
  for (int i = 0; i < kLevels; ++i) {
    PyramidLevel& level = plan.level[i];
    level.width = plan.columns * kBlock >> i;
    level.height = plan.rows * kBlock >> i;
    level.border = kPyramidBorder >> i;
    level.stride = divide_up(level.width + 2 * level.border + kRowSlack, kRowSlack) * kRowSlack;
    level.offset = plan.pyramid_bytes + level.border * level.stride + level.border;
    plan.pyramid_bytes += (level.height + 2 * level.border) * level.stride;
  }
  return plan;
}

}  // namespace

void run(const BlockMatchParams& params, const Threads& threads) {
  BlockMatchPlan plan = make_plan(params);
  const std::unique_ptr<uint8_t[]> pyramids(new uint8_t[static_cast<size_t>(2 * plan.pyramid_bytes)]);
  plan.pyramids = pyramids.get();
  std::vector<MatchPenalty> penalties;
  const MotionKernels& table = *kernels().motion;
  for (; plan.image < params.input.size[0]; ++plan.image) {
    set_penalties(params.sigma, plan.image, penalties);
    plan.penalties = penalties.data();
    plan.motion = params.motion + 2 * plan.image * plan.rows * plan.columns;
    for_each_block(threads, 2 * plan.rows, [&](int64_t index, Scratch&) {
      table.pyramid_rows(plan, index / plan.rows, index % plan.rows);
    });
    for_each_block(threads, plan.rows, [&](int64_t row, Scratch& scratch) {
      table.match_row(plan, row, scratch.reserve(static_cast<size_t>(match_scratch_bytes(plan))));
    });
  }
}

void run(const BlockWarpParams& params, const Threads& threads) {
  const MotionKernels& table = *kernels().motion;
  const int64_t* size = params.input.size;
  if (params.adjoint) {
    const int64_t bytes = size[2] * size[3] * accumulation_bytes(params.input.dtype);
    return for_each_block(threads, size[0] * size[1], [&](int64_t index, Scratch& scratch) {
      void* plane = scratch.reserve(static_cast<size_t>(bytes));
      table.warp_plane_adjoint(params, index / size[1], index % size[1], plane);
    });
  }
  const int64_t rows = divide_up(size[2], kBlock);
  for_each_block(threads, size[0] * rows,
                 [&](int64_t index, Scratch&) { table.warp_row(params, index / rows, index % rows); });
}

namespace {

template <class Params>
void run_rows(const Params& params, const Tensor4& image, const Threads& threads,
              void (*row)(const Params& params, int64_t image, int64_t y, void* scratch)) {
  const int64_t height = image.size[2];
  for_each_block(threads, image.size[0] * height, [&](int64_t index, Scratch& scratch) {
    row(params, index / height, index % height, scratch.reserve(kFuseScratchBytes));
  });
}

}  // namespace

void run(const RecurrentFuseParams& params, const Threads& threads) {
  const bool is_double = params.input.dtype == DType::kFloat64;
  const MotionKernels& table = *kernels().motion;
  run_rows(params, params.input, threads, is_double ? table.fuse_row_f64 : table.fuse_row_f32);
}

void run(const RecurrentFuseGradParams& params, const Threads& threads) {
  const bool is_double = params.forward.input.dtype == DType::kFloat64;
  const MotionKernels& table = *kernels().motion;
  run_rows(params, params.forward.input, threads,
           is_double ? table.fuse_grad_row_f64 : table.fuse_grad_row_f32);
}

std::string explain(const BlockMatchParams&, const KernelTable& table) {
  return chosen_line("block_match_pyramid", table);
}

std::string explain(const BlockWarpParams&, const KernelTable& table) {
  return chosen_line("block_warp_copy", table);
}

std::string explain(const RecurrentFuseParams&, const KernelTable& table) {
  return chosen_line("recurrent_fuse_row", table);
}

std::string explain(const RecurrentFuseGradParams&, const KernelTable& table) {
  return chosen_line("recurrent_fuse_grad_row", table);
}

}  // namespace denoise_ext::cpu
