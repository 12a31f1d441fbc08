#include "weight_grad_partials.h"

#include <algorithm>
#include <utility>

#include "storage.h"

namespace denoise_ext::cpu {
namespace {

// More chunks balance better; each costs a partial gradient. 32 serve 16 cores twice over.
constexpr int64_t kMostChunks = 32, kPartialBytes = 64 * 1024 * 1024;
// Tiles of a chunk at least: a partial gradient is worth so many.
constexpr int64_t kLeastTiles = 4;

int64_t taps(const WeightGradPartials& partials) {
  return partials.grad_weight.size[2] * partials.grad_weight.size[3];
}

// Adds the chunks of one tap of one (group, block), row by row: [coarse channels] of a fine channel.
template <class T, class Storage>
void reduce_tap(const WeightGradPartials& partials, int64_t group_block, int64_t tap) {
  const Tensor4& out = partials.grad_weight;
  const WeightGradPartials::Task at = partials.task(group_block * partials.chunks);
  const int64_t width = at.block.vectors * static_cast<int64_t>(partials.lanes);
  const int64_t first = at.group * partials.group_coarse + at.block.first;
  const int64_t kept = std::min(width, partials.group_coarse - at.block.first);
  const T* row = static_cast<const T*>(partials.data) + group_block * partials.chunks * partials.elements +
                 tap * partials.group_fine * width;
  Storage* to = static_cast<Storage*>(out.data) + first * out.stride[0] + tap / out.size[3] * out.stride[2] +
                tap % out.size[3] * out.stride[3];
  std::vector<T> sums(static_cast<size_t>(width));
  for (int64_t c = 0; c < partials.group_fine; ++c, row += width, to += out.stride[1]) {
    std::fill(sums.begin(), sums.end(), T(0));
    for (int64_t chunk = 0; chunk < partials.chunks; ++chunk) {
      const T* partial = row + chunk * partials.elements;
      for (int64_t k = 0; k < width; ++k) sums[static_cast<size_t>(k)] += partial[k];
    }
    for (int64_t k = 0; k < kept; ++k)
      to[k * out.stride[0]] = StoreAs<Storage>::from(sums[static_cast<size_t>(k)]);
  }
}

void reduce(const WeightGradPartials& partials, int64_t group_block, int64_t tap) {
  switch (partials.grad_weight.dtype) {
    case DType::kFloat64: return reduce_tap<double, double>(partials, group_block, tap);
    case DType::kBFloat16: return reduce_tap<float, BFloat16>(partials, group_block, tap);
    case DType::kFloat16: return reduce_tap<float, Float16>(partials, group_block, tap);
    default: return reduce_tap<float, float>(partials, group_block, tap);
  }
}

}  // namespace

WeightGradPartials weight_grad_partials(const ConvWeightGradParams& params, int lanes) {
  WeightGradPartials partials{};
  partials.grad_weight = params.grad_weight;
  partials.lanes = lanes;
  partials.group_fine = params.fine.size[1] / params.groups;
  partials.depthwise = params.groups > 1 && partials.group_fine == 1;
  partials.groups = partials.depthwise ? 1 : params.groups;
  partials.group_coarse = params.coarse.size[1] / partials.groups;
  return partials;
}

void cut_weight_grad(WeightGradPartials& partials, std::vector<ChannelBlock> blocks, int64_t tiles) {
  int64_t widest = 1;
  for (const ChannelBlock& block : blocks) widest = std::max<int64_t>(widest, block.vectors);
  partials.blocks = std::move(blocks);
  partials.elements = taps(partials) * partials.group_fine * widest * partials.lanes;
  const int64_t element = accumulation_bytes(partials.grad_weight.dtype);
  const int64_t per_chunk =
      partials.groups * static_cast<int64_t>(partials.blocks.size()) * partials.elements * element;
  partials.chunks =
      std::clamp<int64_t>(divide_up(tiles, kLeastTiles), 1,
                          std::min(kMostChunks, std::max<int64_t>(kPartialBytes / per_chunk, 1)));
}

void run_weight_grad(WeightGradPartials& partials, int64_t tasks, size_t scratch_bytes,
                     const Threads& threads, const std::function<void(int64_t, void*)>& task) {
  const auto element = static_cast<size_t>(accumulation_bytes(partials.grad_weight.dtype));
  const size_t bytes = static_cast<size_t>(partials.tasks() * partials.elements) * element;
  // Kept from call to call as a thread's scratch is, unless it is large.
  static thread_local Scratch kept;
  Scratch own;
  partials.data = (bytes <= kKeptBytes ? kept : own).reserve(bytes);
  for_each_block(threads, tasks,
                 [&](int64_t index, Scratch& scratch) { task(index, scratch.reserve(scratch_bytes)); });
  const int64_t tap_count = taps(partials);
  for_each_block(threads, partials.tasks() / partials.chunks * tap_count,
                 [&](int64_t index, Scratch&) { reduce(partials, index / tap_count, index % tap_count); });
}

}  // namespace denoise_ext::cpu
