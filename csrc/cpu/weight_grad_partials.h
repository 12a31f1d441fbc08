// The sums of a weight's gradient, over chunks of the images' tiles.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "conv_plan.h"
#include "threads.h"

namespace denoise_ext::cpu {

// Each task writes a partial gradient of its own, and they are added in chunk order, so the result does
// not depend on the number of threads.
struct WeightGradPartials {
  Tensor4 grad_weight;  // (K, C / groups, KH, KW), result
  bool depthwise;
  int64_t groups;                    // depthwise: 1
  int64_t group_fine, group_coarse;  // channels per group; depthwise: 1 and all
  int lanes;                         // elements per vector
  std::vector<ChannelBlock> blocks;  // of the coarse channels of a group
  int64_t chunks;
  int64_t elements;  // of one partial, [tap][group_fine][block's channels], with the widest block
  void* data;        // [group][block][chunk][elements], in the accumulation type

  struct Task {
    int64_t group, chunk;
    ChannelBlock block;
  };
  int64_t tasks() const { return groups * static_cast<int64_t>(blocks.size()) * chunks; }
  Task task(int64_t index) const {
    const int64_t count = static_cast<int64_t>(blocks.size());
    return {index / chunks / count, index % chunks, blocks[static_cast<size_t>(index / chunks % count)]};
  }
};

WeightGradPartials weight_grad_partials(const ConvWeightGradParams& params, int lanes);

// Sets `blocks`, and `chunks` for a sum over `tiles` tiles.
void cut_weight_grad(WeightGradPartials& partials, std::vector<ChannelBlock> blocks, int64_t tiles);

// Allocates the partials (not initialised), runs task(index, scratch) for index in [0, tasks), adds the
// partials and writes the gradient in its own layout and dtype.
void run_weight_grad(WeightGradPartials& partials, int64_t tasks, size_t scratch_bytes,
                     const Threads& threads, const std::function<void(int64_t, void*)>& task);

}  // namespace denoise_ext::cpu
