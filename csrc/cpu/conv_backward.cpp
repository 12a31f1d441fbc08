#include "conv_backward.h"

#include <algorithm>
#include <utility>

#include "conv_kernels.h"
#include "storage.h"
#include "winograd_weight_grad.h"

namespace denoise_ext::cpu {
namespace {

// Both packed tiles should stay in a 1 MiB second-level cache together.
constexpr int64_t kTileBytes = 512 * 1024;
constexpr int64_t kTileRows = 8, kTileCols = 48, kSmallestCols = 12;
// A strip's coarse pixels take half of a 32 KiB first-level cache.
constexpr int64_t kStripBytes = 16 * 1024;
// Rows of about this many elements make a strip of the activation's gradient.
constexpr int64_t kStripElements = 64 * 1024;

// Fits a tile of both packed tensors, the coarse one `width` channels wide, into kTileBytes.
void choose_tiles(ConvWeightGradPlan& plan, int64_t width) {
  const ConvWeightGradParams& p = plan.params;
  const int64_t element = accumulation_bytes(p.coarse.dtype);
  plan.fine_channels = plan.partials.depthwise ? width : plan.partials.group_fine;
  plan.tile_rows = std::min(kTileRows, p.coarse.size[2]);
  plan.tile_cols = std::min(kTileCols, p.coarse.size[3]);
  const auto measure = [&] {
    const int64_t tile[2] = {plan.tile_rows, plan.tile_cols};
    for (int axis = 0; axis < 2; ++axis) {
      const int64_t taps = p.grad_weight.size[2 + axis];
      plan.fine[axis] = packed_axis(tile[axis], p.stride[axis], taps, (taps - 1) * p.dilation[axis]);
    }
    plan.fine_elements = divide_up(plan.fine[0].length * plan.fine[1].length * plan.fine_channels, 16) * 16;
    plan.coarse_elements = plan.tile_rows * plan.tile_cols * width;
    return (plan.fine_elements + plan.coarse_elements) * element;
  };
  while (measure() > kTileBytes && plan.tile_rows > 1) plan.tile_rows = divide_up(plan.tile_rows, 2);
  while (measure() > kTileBytes && plan.tile_cols > kSmallestCols)
    plan.tile_cols = divide_up(plan.tile_cols, 2);
  plan.strip_rows = std::clamp<int64_t>(kStripBytes / (plan.tile_cols * width * element), 1, plan.tile_rows);
  plan.scratch_bytes = static_cast<size_t>((plan.fine_elements + plan.coarse_elements) * element);
  plan.tiles_y = divide_up(p.coarse.size[2], plan.tile_rows);
  plan.tiles_x = divide_up(p.coarse.size[3], plan.tile_cols);
}

// The same sum over fine pixels: the gradient with respect to the weight with its channels exchanged and
// its taps in reverse order, the coarse tensor now read at each tap.
ConvWeightGradParams exchanged(const ConvWeightGradParams& p) {
  ConvWeightGradParams result = p;
  std::swap(result.coarse, result.fine);
  std::swap(result.grad_weight.size[0], result.grad_weight.size[1]);
  std::swap(result.grad_weight.stride[0], result.grad_weight.stride[1]);
  const int64_t element = p.grad_weight.dtype == DType::kFloat64   ? 8
                          : p.grad_weight.dtype == DType::kFloat32 ? 4
                                                                   : 2;
  for (int axis : {0, 1}) {
    const int64_t last = p.grad_weight.size[2 + axis] - 1;
    result.padding[axis] = p.dilation[axis] * last - p.padding[axis];
    result.grad_weight.data =
        static_cast<char*>(result.grad_weight.data) + last * p.grad_weight.stride[2 + axis] * element;
    result.grad_weight.stride[2 + axis] = -p.grad_weight.stride[2 + axis];
  }
  return result;
}

// Whether that leaves fewer lanes of the vectors unused: they run over coarse channels.
bool exchange_pays(const ConvWeightGradParams& p, int lanes) {
  if (p.groups > 1 || p.stride[0] > 1 || p.stride[1] > 1) return false;
  const Tensor4 &fine = p.fine, &coarse = p.coarse;
  const auto products = [&](const Tensor4& wide, const Tensor4& other) {
    return static_cast<double>(divide_up(wide.size[1], lanes)) * static_cast<double>(other.size[1]) *
           static_cast<double>(wide.size[2]) * static_cast<double>(wide.size[3]);
  };
  return products(fine, coarse) < products(coarse, fine);
}

ConvWeightGradPlan make_plan(const ConvWeightGradParams& given, const KernelTable& table) {
  ConvWeightGradPlan plan{};
  const int lanes = table.vector_bytes / static_cast<int>(accumulation_bytes(given.coarse.dtype));
  const ConvWeightGradParams params = exchange_pays(given, lanes) ? exchanged(given) : given;
  plan.params = params;
  plan.partials = weight_grad_partials(params, lanes);
  const std::vector<ChannelBlock> blocks =
      channel_blocks(plan.partials.group_coarse, lanes, table.accumulators);
  int widest = 1;
  for (const ChannelBlock& block : blocks) widest = std::max(widest, block.vectors);
  choose_tiles(plan, widest * static_cast<int64_t>(lanes));
  cut_weight_grad(plan.partials, blocks, params.coarse.size[0] * plan.tiles_y * plan.tiles_x);
  for (int64_t u = 0; u < params.grad_weight.size[2]; ++u)
    for (int64_t v = 0; v < params.grad_weight.size[3]; ++v) {
      const int64_t dy = u * params.dilation[0], dx = v * params.dilation[1];
      const int64_t pixel = plan.fine[0].place(u, dy) * plan.fine[1].length + plan.fine[1].place(v, dx);
      plan.taps.push_back({dy, dx, u, v, pixel * plan.fine_channels});
    }
  if (plan.partials.depthwise) return plan;
  for (const ConvTap& tap : plan.taps)
    for (int64_t c = 0; c < plan.partials.group_fine; ++c) plan.offsets.push_back(tap.offset + c);
  plan.offsets.resize(plan.offsets.size() + static_cast<size_t>(table.accumulators), plan.offsets.back());
  return plan;
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

std::string explain(const ConvWeightGradParams& params, const KernelTable& table) {
  const char* obstacle = winograd_weight_grad_obstacle(params);
  if (obstacle == nullptr) return chosen_line("conv_weight_grad_winograd4", table);
  return chosen_line("conv_weight_grad", table) + "\nconv_weight_grad_winograd4: " + obstacle;
}

std::string explain(const ActivationGradParams& params, const KernelTable&) {
  return explanation(params);
}

void run(const ConvWeightGradParams& params, const Threads& threads) {
  const KernelTable& table = kernels();
  if (winograd_weight_grad_obstacle(params) == nullptr)
    return run_winograd_weight_grad(params, table, threads);
  ConvWeightGradPlan plan = make_plan(params, table);
  const auto task = params.coarse.dtype == DType::kFloat64 ? table.conv->weight_grad_task_f64
                                                           : table.conv->weight_grad_task_f32;
  run_weight_grad(plan.partials, plan.partials.tasks(), plan.scratch_bytes, threads,
                  [&](int64_t index, void* scratch) { task(plan, index, scratch); });
}

void run(const ActivationGradParams& params, const Threads& threads) {
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
  for_each_block(threads, strips,
                 [&](int64_t strip, Scratch&) { table.conv->activation_grad_strip(plan, strip); });
  // In strip order, whatever the number of threads was.
  for (size_t i = 0; i < partials.size(); ++i)
    params.sums[i % static_cast<size_t>(2 * channels)] += partials[i];
}

}  // namespace denoise_ext::cpu
