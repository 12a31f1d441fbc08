#include "norm.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "../params/arithmetic.h"
#include "norm_kernels.h"
#include "storage.h"

namespace denoise_ext::cpu {
namespace {

constexpr int64_t kTileElements = 4096;    // of a first-level cache's
constexpr int64_t kStripElements = 65536;  // a strip's sums cost nothing beside it
constexpr int64_t kMostLanes = 16;         // of a vector

void fill(NormPlan& plan, const NormParams& params) {
  plan.params = params;
  plan.adjacent = params.input.stride[1] == 1 && params.input.size[1] > 1;
  plan.width = divide_up(params.input.size[1], kMostLanes) * kMostLanes;
  plan.tile_pixels = std::clamp<int64_t>(kTileElements / plan.width, kMostLanes, kNormLine);
  const int64_t elements = plan.width * std::max(plan.tile_pixels, kNormLine);
  plan.scratch_bytes = static_cast<size_t>(elements * accumulation_bytes(params.input.dtype));
}

// A value for each channel, `absent` where there is no tensor, zeros behind them.
template <class T>
std::vector<T> channel_values(const Tensor1& values, int64_t channels, int64_t width, T absent) {
  std::vector<T> result(static_cast<size_t>(width), T(0));
  std::fill_n(result.begin(), channels, absent);
  if (values.data == nullptr) return result;
  with_storage(values.dtype, [&](auto storage) {
    const auto* from = static_cast<const decltype(storage)*>(values.data);
    for (int64_t c = 0; c < channels; ++c)
      result[static_cast<size_t>(c)] = load_as<T>(from[c * values.stride]);
  });
  return result;
}

template <class T>
void run_layer_norm(const LayerNorm2dParams& params, bool centred, const Threads& threads) {
  LayerNormPlan plan{};
  fill(plan, params);
  plan.centred = centred;
  const int64_t* size = params.input.size;
  const int64_t channels = size[1];
  const int64_t cols = divide_up(divide_up(kStripElements, plan.width), kNormLine) * kNormLine;
  plan.piece_cols = std::min(cols, size[3]);
  plan.pieces_per_row = divide_up(size[3], plan.piece_cols);
  const std::vector<T> weight = channel_values<T>(params.weight, channels, plan.width, T(1));
  const std::vector<T> bias = channel_values<T>(params.bias, channels, plan.width, T(0));
  plan.weight = weight.data();
  plan.bias = bias.data();
  const NormKernels& table = *kernels().norm;
  for_each_block(threads, size[0] * size[2] * plan.pieces_per_row, [&](int64_t piece, Scratch& scratch) {
    table.layer_norm_piece(plan, piece, scratch.reserve(plan.scratch_bytes));
  });
}

// Pixels of few channels fill a vector together where they lie side by side.
int64_t fold_of(const GroupNormParams& params) {
  const int64_t channels = params.input.size[1], fold = kMostLanes / channels;
  const auto dense = [&](const Tensor4& x) { return x.stride[1] == 1 && x.stride[3] == channels; };
  const bool whole =
      channels > 1 && fold > 1 && kMostLanes % channels == 0 && params.input.size[3] % fold == 0;
  return whole && dense(params.input) && dense(params.output) ? fold : 1;
}

void fold_pixels(Tensor4& image, int64_t fold) {
  image.size[1] *= fold;
  image.size[3] /= fold;
  image.stride[3] *= fold;
}

// f(place among the channels of a pixel, channel) for each channel of a group.
template <class F>
void for_each_channel(const GroupNormPlan& plan, int64_t group, int64_t per_group, const F& f) {
  const int64_t channels = plan.params.input.size[1] / plan.fold;
  for (int64_t first = 0; first < channels * plan.fold; first += channels)
    for (int64_t c = group * per_group; c < (group + 1) * per_group; ++c) f(first + c, c);
}

// Of a group's differences from its centre.
struct Moments {
  double mean, variance;
};

Moments moments(const GroupNormPlan& plan, int64_t n, int64_t group, int64_t per_group) {
  const int64_t* size = plan.params.input.size;
  double sum = 0, squares = 0;  // in strip order, whatever the number of threads was
  for (int64_t strip = n * plan.strips_per_image; strip < (n + 1) * plan.strips_per_image; ++strip) {
    const double* of_strip = plan.partials + strip * 2 * plan.width;
    for_each_channel(plan, group, per_group, [&](int64_t place, int64_t) {
      sum += of_strip[place];
      squares += of_strip[plan.width + place];
    });
  }
  const auto count = static_cast<double>(per_group * plan.fold * size[2] * size[3]);
  const double mean = sum / count, variance = squares / count - mean * mean;
  return {mean, variance < 0 ? 0 : variance};
}

// f(image, group) for each.
template <class F>
void for_each_group(const GroupNormPlan& plan, int64_t groups, const F& f) {
  for (int64_t n = 0; n < plan.params.input.size[0]; ++n)
    for (int64_t g = 0; g < groups; ++g) f(n, g);
}

// What a value is multiplied with and what is added then, of each image and channel.
template <class T>
struct Affine {
  std::vector<T> scale, shift;
};

template <class T>
Affine<T> affine(const GroupNormPlan& plan, int64_t groups) {
  const NormParams& p = plan.params;
  const int64_t channels = p.input.size[1] / plan.fold, per_group = channels / groups;
  const std::vector<double> weight = channel_values<double>(p.weight, channels, plan.width, 1.0);
  const std::vector<double> bias = channel_values<double>(p.bias, channels, plan.width, 0.0);
  Affine<T> result;
  result.scale.assign(static_cast<size_t>(p.input.size[0] * plan.width), T(0));
  result.shift = result.scale;
  for_each_group(plan, groups, [&](int64_t n, int64_t g) {
    const Moments of_group = moments(plan, n, g, per_group);
    const double mean = plan.center[n * plan.width + g * per_group] + of_group.mean;
    const double factor = 1 / std::sqrt(of_group.variance + p.eps);
    for_each_channel(plan, g, per_group, [&](int64_t place, int64_t c) {
      const auto channel = static_cast<size_t>(c), at = static_cast<size_t>(n * plan.width + place);
      result.scale[at] = static_cast<T>(factor * weight[channel]);
      result.shift[at] = static_cast<T>(bias[channel] - mean * factor * weight[channel]);
    });
  });
  return result;
}

template <class T>
void run_group_norm(const GroupNormParams& params, const Threads& threads) {
  GroupNormPlan plan{};
  const int64_t per_group = params.input.size[1] / params.groups;
  plan.fold = fold_of(params);
  GroupNormParams folded = params;
  fold_pixels(folded.input, plan.fold);
  fold_pixels(folded.output, plan.fold);
  fill(plan, folded);
  const int64_t* size = folded.input.size;
  plan.strip_rows = std::clamp<int64_t>(kStripElements / (size[1] * size[3]), 1, size[2]);
  plan.strips_per_image = divide_up(size[2], plan.strip_rows);
  const int64_t strips = size[0] * plan.strips_per_image;
  std::vector<double> partials(static_cast<size_t>(strips * 2 * plan.width), 0.0);
  std::vector<double> center(static_cast<size_t>(size[0] * plan.width), 0.0);
  plan.partials = partials.data();
  plan.center = center.data();
  const NormKernels& table = *kernels().norm;
  const auto add_up = [&] {
    for_each_block(threads, strips, [&](int64_t strip, Scratch& scratch) {
      table.group_norm_sums(plan, strip, scratch.reserve(plan.scratch_bytes));
    });
  };
  if constexpr (sizeof(T) == sizeof(double)) {
    add_up();
    for_each_group(plan, params.groups, [&](int64_t n, int64_t g) {
      const double mean = moments(plan, n, g, per_group).mean;
      for_each_channel(plan, g, per_group, [&](int64_t place, int64_t) {
        center[static_cast<size_t>(n * plan.width + place)] = mean;
      });
    });
    std::fill(partials.begin(), partials.end(), 0.0);
  }
  add_up();
  const Affine<T> values = affine<T>(plan, params.groups);
  plan.scale = values.scale.data();
  plan.shift = values.shift.data();
  for_each_block(threads, strips, [&](int64_t strip, Scratch& scratch) {
    table.group_norm_strip(plan, strip, scratch.reserve(plan.scratch_bytes));
  });
}

}  // namespace

void run(const LayerNorm2dParams& params, const Threads& threads) {
  const bool is_double = params.input.dtype == DType::kFloat64;
  is_double ? run_layer_norm<double>(params, true, threads) : run_layer_norm<float>(params, true, threads);
}

void run(const DeviationParams& params, const Threads& threads) {
  const bool is_double = params.norm.input.dtype == DType::kFloat64;
  is_double ? run_layer_norm<double>(params.norm, false, threads)
            : run_layer_norm<float>(params.norm, false, threads);
}

void run(const GroupNormParams& params, const Threads& threads) {
  const bool is_double = params.input.dtype == DType::kFloat64;
  is_double ? run_group_norm<double>(params, threads) : run_group_norm<float>(params, threads);
}

std::string explain(const LayerNorm2dParams&, const KernelTable& table) {
  return chosen_line("layer_norm2d_tile", table);
}

std::string explain(const DeviationParams& params, const KernelTable& table) {
  return explain(params.norm, table);
}

std::string explain(const GroupNormParams&, const KernelTable& table) {
  return chosen_line("group_norm_two_passes", table);
}

}  // namespace denoise_ext::cpu
