#include "conv_backward.h"

#include <algorithm>

#include "isa.h"
#include "storage.h"

namespace denoise_ext::cpu {
namespace {

// Both packed tiles should stay in a 1 MiB second-level cache together.
constexpr int64_t kTileBytes = 512 * 1024;
constexpr int64_t kTileRows = 8, kTileCols = 48, kSmallestCols = 12;
// More chunks balance better; each costs a partial gradient. 32 serve 16 cores twice over.
constexpr int64_t kMostChunks = 32, kPartialBytes = 64 * 1024 * 1024;
// sum_outer() may read this many elements past the last pixel.
constexpr int64_t kReadSlack = 32;
// Rows of about this many elements make a strip of the activation's gradient.
constexpr int64_t kStripElements = 64 * 1024;

int64_t element_size(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : 4;
}

void choose_tiles(ConvWeightGradPlan& plan) {
  const ConvWeightGradParams& p = plan.params;
  const int64_t element = element_size(p.coarse.dtype);
  int widest = 1;
  for (const ChannelBlock& block : plan.blocks) widest = std::max(widest, block.vectors);
  const int64_t width = widest * static_cast<int64_t>(plan.lanes);
  plan.fine_channels = plan.depthwise ? width : plan.group_fine;
  plan.tile_rows = std::min(kTileRows, p.coarse.size[2]);
  plan.tile_cols = std::min(kTileCols, p.coarse.size[3]);
  const auto measure = [&] {
    const int64_t rows = (plan.tile_rows - 1) * p.stride[0] + (p.grad_weight.size[2] - 1) * p.dilation[0] + 1;
    plan.fine_cols = (plan.tile_cols - 1) * p.stride[1] + (p.grad_weight.size[3] - 1) * p.dilation[1] + 1;
    plan.fine_elements = divide_up(rows * plan.fine_cols * plan.fine_channels + kReadSlack, 16) * 16;
    plan.coarse_elements = plan.tile_rows * plan.tile_cols * width;
    return (plan.fine_elements + plan.coarse_elements) * element;
  };
  while (measure() > kTileBytes && plan.tile_rows > 1) plan.tile_rows = divide_up(plan.tile_rows, 2);
  while (measure() > kTileBytes && plan.tile_cols > kSmallestCols)
    plan.tile_cols = divide_up(plan.tile_cols, 2);
  plan.scratch_bytes = static_cast<size_t>((plan.fine_elements + plan.coarse_elements) * element);
  plan.tiles_y = divide_up(p.coarse.size[2], plan.tile_rows);
  plan.tiles_x = divide_up(p.coarse.size[3], plan.tile_cols);
  const int64_t taps = static_cast<int64_t>(plan.taps.size());
  plan.partial_elements = taps * (plan.depthwise ? 1 : plan.group_fine) * width;
  const int64_t per_chunk = plan.partial_elements * element * static_cast<int64_t>(plan.blocks.size()) *
                            (plan.depthwise ? 1 : p.groups);
  const int64_t affordable = std::max<int64_t>(kPartialBytes / per_chunk, 1);
  plan.chunks = std::min({p.coarse.size[0] * plan.tiles_y * plan.tiles_x, kMostChunks, affordable});
}

ConvWeightGradPlan make_plan(const ConvWeightGradParams& params, const KernelTable& table) {
  ConvWeightGradPlan plan{};
  plan.params = params;
  plan.lanes = table.vector_bytes / static_cast<int>(element_size(params.coarse.dtype));
  plan.group_fine = params.fine.size[1] / params.groups;
  plan.depthwise = params.groups > 1 && plan.group_fine == 1;
  plan.group_coarse = plan.depthwise ? params.coarse.size[1] : params.coarse.size[1] / params.groups;
  plan.blocks = channel_blocks(plan.group_coarse, plan.lanes, table.accumulators);
  for (int64_t u = 0; u < params.grad_weight.size[2]; ++u)
    for (int64_t v = 0; v < params.grad_weight.size[3]; ++v)
      plan.taps.push_back({u * params.dilation[0], v * params.dilation[1], u, v, 0});
  choose_tiles(plan);
  for (ConvTap& tap : plan.taps) tap.offset = (tap.dy * plan.fine_cols + tap.dx) * plan.fine_channels;
  return plan;
}

// Adds the chunks of one (group, block) in order and writes the gradient in its own layout and dtype.
template <class T>
void reduce_partials(const ConvWeightGradPlan& plan, int64_t group_block) {
  const Tensor4& out = plan.params.grad_weight;
  const int64_t blocks = static_cast<int64_t>(plan.blocks.size());
  const ChannelBlock& block = plan.blocks[static_cast<size_t>(group_block % blocks)];
  const int64_t group = group_block / blocks;
  const int64_t width = block.vectors * static_cast<int64_t>(plan.lanes);
  const int64_t fine = plan.depthwise ? 1 : plan.group_fine;
  const int64_t kept = std::min(width, plan.group_coarse - block.first);
  const T* partials =
      static_cast<const T*>(plan.partials) + group_block * plan.chunks * plan.partial_elements;
  with_storage(out.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    if constexpr (std::is_same_v<Storage, uint8_t> || (sizeof(T) == 8) != (sizeof(Storage) == 8)) {
      return;  // not a dtype of convolutions, or not one that accumulates in T
    } else {
      for (size_t t = 0; t < plan.taps.size(); ++t)
        for (int64_t c = 0; c < fine; ++c)
          for (int64_t k = 0; k < kept; ++k) {
            const T* at = partials + (static_cast<int64_t>(t) * fine + c) * width + k;
            T sum = 0;
            for (int64_t chunk = 0; chunk < plan.chunks; ++chunk) sum += at[chunk * plan.partial_elements];
            static_cast<Storage*>(
                out.data)[(group * plan.group_coarse + block.first + k) * out.stride[0] + c * out.stride[1] +
                          plan.taps[t].u * out.stride[2] + plan.taps[t].v * out.stride[3]] =
                StoreAs<Storage>::from(sum);
          }
    }
  });
}

template <class T>
void run_plan(ConvWeightGradPlan& plan, void (*task)(const ConvWeightGradPlan&, int64_t, void*),
              const Threads& threads) {
  std::vector<T> partials(static_cast<size_t>(plan.tasks() * plan.partial_elements), T(0));
  plan.partials = partials.data();
  for_each_block(threads, plan.tasks(), [&](int64_t index, Scratch& scratch) {
    task(plan, index, scratch.reserve(plan.scratch_bytes));
  });
  for_each_block(threads, plan.tasks() / plan.chunks,
                 [&](int64_t group_block, Scratch&) { reduce_partials<T>(plan, group_block); });
}

template <class T>
std::vector<T> negative_slopes(const ActivationGradParams& p) {
  std::vector<T> slopes(static_cast<size_t>(p.grad_output.size[1]), static_cast<T>(p.negative_slope));
  if (p.prelu_weight.data == nullptr) return slopes;
  with_storage(p.prelu_weight.dtype, [&](auto storage) {
    const auto* from = static_cast<const decltype(storage)*>(p.prelu_weight.data);
    for (size_t c = 0; c < slopes.size(); ++c)
      slopes[c] =
          load_as<T>(from[p.prelu_weight.size == 1 ? 0 : static_cast<int64_t>(c) * p.prelu_weight.stride]);
  });
  return slopes;
}

}  // namespace

void run_conv_weight_grad(const ConvWeightGradParams& params, const Threads& threads) {
  const KernelTable& table = kernels();
  ConvWeightGradPlan plan = make_plan(params, table);
  if (params.coarse.dtype == DType::kFloat64) {
    run_plan<double>(plan, table.conv_weight_grad_task_f64, threads);
  } else {
    run_plan<float>(plan, table.conv_weight_grad_task_f32, threads);
  }
}

void run_activation_grad(const ActivationGradParams& params, const Threads& threads) {
  const int64_t channels = params.grad_output.size[1], rows = params.grad_output.size[2];
  ActivationGradPlan plan{};
  plan.params = params;
  plan.strip_rows = std::clamp<int64_t>(kStripElements / (channels * params.grad_output.size[3]), 1, rows);
  plan.strips_per_image = divide_up(rows, plan.strip_rows);
  const std::vector<float> slopes = negative_slopes<float>(params);
  const std::vector<double> slopes_double = negative_slopes<double>(params);
  const bool is_double = params.grad_output.dtype == DType::kFloat64;
  plan.slopes =
      is_double ? static_cast<const void*>(slopes_double.data()) : static_cast<const void*>(slopes.data());
  const int64_t strips = params.grad_output.size[0] * plan.strips_per_image;
  std::vector<double> partials;
  if (params.sums != nullptr) {
    partials.assign(static_cast<size_t>(strips * 2 * channels), 0.0);
    plan.partials = partials.data();
  }
  const KernelTable& table = kernels();
  for_each_block(threads, strips, [&](int64_t strip, Scratch&) { table.activation_grad_strip(plan, strip); });
  // In strip order, whatever the number of threads was.
  for (size_t i = 0; i < partials.size(); ++i)
    params.sums[i % static_cast<size_t>(2 * channels)] += partials[i];
}

}  // namespace denoise_ext::cpu
