// Gradients of the joint bilateral filter: the three passes of bilateral.h, image by image.
#include <algorithm>
#include <optional>

#include "bilateral.h"
#include "bilateral_grad_pairs.h"
#include "bilateral_kernels.h"
#include "sigma.h"

namespace denoise_ext::cpu {
namespace {

// Rows of an image that one task of pass 3 folds.
constexpr int64_t kFoldRows = 16;

// For each position of an axis, the positions of the enlarged axis that are read from it.
std::vector<std::vector<int64_t>> readers(int64_t extent, int64_t radius, Border border) {
  std::vector<std::vector<int64_t>> lists(static_cast<size_t>(extent));
  for (int64_t i = 0; i < extent + 2 * radius; ++i) {
    const int64_t source = border_index(i - radius, extent, border);
    if (source >= 0) lists[static_cast<size_t>(source)].push_back(i);
  }
  return lists;
}

// Pass 3: the gradient of an enlarged image folded onto the image.
template <class T>
class Fold {
 public:
  explicit Fold(const BilateralPlan& enlarged)
      : height_(enlarged.params.input.size[2]),
        width_(enlarged.params.input.size[3]),
        radius_(enlarged.radius[1]),
        enlarged_height_(enlarged.extent[0]),
        enlarged_width_(enlarged.extent[1]),
        rows_(readers(height_, enlarged.radius[0], enlarged.params.border)) {
    for (int64_t i = 0; i < enlarged_width_; ++i)
      columns_.push_back(border_index(i - radius_, width_, enlarged.params.border));
  }

  // `from` is [channel][enlarged height][enlarged width], `to` an image of which n is filled.
  void run(const T* from, const Tensor4& to, int64_t n, const Threads& threads) const {
    const int64_t strips = divide_up(height_, kFoldRows);
    for_each_block(threads, to.size[1] * strips, [&](int64_t block, Scratch& scratch) {
      T* sums = static_cast<T*>(scratch.reserve(static_cast<size_t>(enlarged_width_) * sizeof(T)));
      const int64_t channel = block / strips, first = block % strips * kFoldRows;
      const T* plane = from + channel * enlarged_height_ * enlarged_width_;
      for (int64_t y = first; y < std::min(height_, first + kFoldRows); ++y) {
        sum_row(plane, y, sums);
        store_row(to, n, channel, y, sums + radius_);
      }
    });
  }

 private:
  void sum_row(const T* plane, int64_t y, T* sums) const {
    std::fill_n(sums, enlarged_width_, T(0));
    for (const int64_t row : rows_[static_cast<size_t>(y)])
      for (int64_t i = 0; i < enlarged_width_; ++i) sums[i] += plane[row * enlarged_width_ + i];
    T* inside = sums + radius_;
    for (int64_t i = 0; i < radius_; ++i)
      if (const int64_t x = columns_[static_cast<size_t>(i)]; x >= 0) inside[x] += sums[i];
    for (int64_t i = radius_ + width_; i < enlarged_width_; ++i)
      if (const int64_t x = columns_[static_cast<size_t>(i)]; x >= 0) inside[x] += sums[i];
  }

  void store_row(const Tensor4& to, int64_t n, int64_t channel, int64_t y, const T* sums) const {
    const int64_t offset = n * to.stride[0] + channel * to.stride[1] + y * to.stride[2];
    with_storage(to.dtype, [&](auto storage) {
      using Storage = decltype(storage);
      auto* row = static_cast<Storage*>(to.data) + offset;
      for (int64_t x = 0; x < width_; ++x) row[x * to.stride[3]] = StoreAs<Storage>::from(sums[x]);
    });
  }

  int64_t height_, width_, radius_, enlarged_height_, enlarged_width_;
  std::vector<std::vector<int64_t>> rows_;
  std::vector<int64_t> columns_;
};

// G / D and B of one image: (1, C + 1, H, W).
Tensor4 scaled_view(void* data, const Tensor4& image) {
  const int64_t channels = image.size[1] + 1, height = image.size[2], width = image.size[3];
  const DType dtype = accumulation_type(image.dtype);
  return {data, {1, channels, height, width}, {channels * height * width, height * width, width, 1}, dtype};
}

// Adds the sums of one image, in the units of BilateralGradPlan::partial_sums, to the sigmas' gradients.
void add_sigma_gradients(const BilateralGradParams& params, int64_t n, const std::vector<double>& partial) {
  double sums[3] = {};
  for (size_t i = 0; i < partial.size(); ++i) sums[i % 3] += partial[i];
  if (params.grad_sigma_color != nullptr) {  // d^2 / sigma^3
    const int64_t i = params.forward.sigma_color.size == 1 ? 0 : n;
    params.grad_sigma_color[i] += 2 * sums[0] / sigma_at(params.forward.sigma_color, i);
  }
  if (params.grad_sigma_space == nullptr) return;
  const int64_t row = params.forward.sigma_space.size == 2 ? 0 : n;
  for (int64_t axis = 0; axis < 2; ++axis) {  // dy^2 / sigma_y^3, dx^2 / sigma_x^3
    const double sigma = sigma_at(params.forward.sigma_space, 2 * row + axis);
    // Where sigma^3 underflows, so did every weight off the centre.
    if (const double sum = sums[1 + axis]; sum != 0)
      params.grad_sigma_space[2 * row + axis] += sum / sigma / sigma / sigma;
  }
}

using Task = void (*)(const BilateralGradPlan&, int64_t, void*);

template <class T>
void run_grad(const BilateralGradParams& params, Task normalise, Task gather, const Threads& threads) {
  const Tensor4 &input = params.forward.input, &guidance = params.forward.guidance;
  const int64_t channels = input.size[1], guides = guidance.size[1];
  const int64_t planes = guides + (is_joint(params.forward) ? channels : 0);
  BilateralGradPlan plan{};
  plan.params = params;
  plan.image = make_bilateral_plan(params.forward, false, planes, 3 + channels);
  // Rows: the results' and their accumulators', a vector (fewer elements than a row) each.
  plan.enlarged = make_bilateral_plan(params.forward, true, planes + channels + 1, 2 * (channels + guides));
  const BilateralTables<T> tables(params.forward, plan.image.taps);
  for (BilateralPlan* part : {&plan.image, &plan.enlarged}) {
    part->log_space = tables.log_space.data();
    part->color_scale = tables.color_scale.data();
    part->images = 1;
  }
  const auto area = static_cast<size_t>(input.size[2] * input.size[3]);
  const auto enlarged_area = static_cast<size_t>(plan.enlarged.extent[0] * plan.enlarged.extent[1]);
  std::vector<T> scaled(static_cast<size_t>(channels + 1) * area);
  const bool by_pairs = favours_pairs(plan.enlarged);
  const auto sums_of = [&](const Tensor4& gradient) {
    const bool needed = gradient.data != nullptr && !by_pairs;
    return std::vector<T>(needed ? static_cast<size_t>(gradient.size[1]) * enlarged_area : 0);
  };
  std::vector<T> grad_input = sums_of(params.grad_input), grad_guidance = sums_of(params.grad_guidance);
  std::vector<double> partial_sums(static_cast<size_t>(by_pairs ? 0 : 3 * plan.enlarged.tasks()));
  plan.scaled = scaled_view(scaled.data(), input);
  plan.grad_input = grad_input.empty() ? nullptr : grad_input.data();
  plan.grad_guidance = grad_guidance.empty() ? nullptr : grad_guidance.data();
  plan.partial_sums = partial_sums.data();
  std::optional<BilateralGradPairs<T>> pairs;
  std::optional<Fold<T>> fold;
  if (by_pairs) {
    pairs.emplace(plan, tables);
  } else {
    fold.emplace(plan.enlarged);
  }
  for (int64_t n = 0; n < input.size[0]; ++n) {
    plan.image.first_image = plan.enlarged.first_image = n;
    for_each_block(threads, plan.image.tasks(), [&](int64_t task, Scratch& scratch) {
      normalise(plan, task, scratch.reserve(plan.image.scratch_bytes));
    });
    if (pairs) {
      pairs->run(n, partial_sums, threads);
    } else {
      for_each_block(threads, plan.enlarged.tasks(), [&](int64_t task, Scratch& scratch) {
        gather(plan, task, scratch.reserve(plan.enlarged.scratch_bytes));
      });
      if (params.grad_input.data) fold->run(grad_input.data(), params.grad_input, n, threads);
      if (params.grad_guidance.data) fold->run(grad_guidance.data(), params.grad_guidance, n, threads);
    }
    add_sigma_gradients(params, n, partial_sums);
  }
}

}  // namespace

void run(const BilateralGradParams& params, const Threads& threads) {
  if (params.grad_sigma_color) std::fill_n(params.grad_sigma_color, params.forward.sigma_color.size, 0.0);
  if (params.grad_sigma_space) std::fill_n(params.grad_sigma_space, params.forward.sigma_space.size, 0.0);
  const BilateralKernels& table = *kernels().bilateral;
  if (params.forward.input.dtype == DType::kFloat64) {
    run_grad<double>(params, table.normalise_task_f64, table.grad_task_f64, threads);
  } else {
    run_grad<float>(params, table.normalise_task_f32, table.grad_task_f32, threads);
  }
}

std::string explain(const BilateralGradParams&, const KernelTable& table) {
  return chosen_line("bilateral_grad_tile", table);
}

}  // namespace denoise_ext::cpu
