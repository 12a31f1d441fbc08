#include "bilateral.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "bilateral_kernels.h"
#include "sigma.h"

namespace denoise_ext::cpu {
namespace {

// Long rows are read fastest from memory. Packed planes should leave room in a 1 MiB second-level cache:
// where those of a wide tile do not, a taller one has less of the window's radius around it.
constexpr int64_t kWideRows = 16, kWideCols = 8 * kTileColumns;
constexpr int64_t kTallRows = 32, kTallCols = 2 * kTileColumns, kSmallestTileRows = 4;
constexpr int64_t kTileBytes = 512 * 1024;

constexpr double kLog2E = 1.4426950408889634;

void choose_tiles(BilateralPlan& plan, int64_t element) {
  const auto take = [&](int64_t rows, int64_t cols) {
    plan.tile_rows = std::min(rows, plan.extent[0]);
    plan.tile_cols = std::min(cols, plan.extent[1]);
  };
  const auto measure = [&] {
    plan.row_elements = divide_up(plan.tile_cols, kTileColumns) * kTileColumns;
    plan.packed_cols = plan.row_elements + 2 * plan.radius[1];
    plan.packed_rows = plan.tile_rows + 2 * plan.radius[0];
    return plan.planes * plan.plane_elements() * element;
  };
  take(kWideRows, kWideCols);
  if (measure() > kTileBytes) take(kTallRows, kTallCols);
  while (measure() > kTileBytes && plan.tile_rows > kSmallestTileRows)
    plan.tile_rows = std::max(plan.tile_rows / 2, kSmallestTileRows);
  if (measure() > kTileBytes) take(plan.tile_rows, kTileColumns);
  measure();
  plan.tiles[0] = divide_up(plan.extent[0], plan.tile_rows);
  plan.tiles[1] = divide_up(plan.extent[1], plan.tile_cols);
}

void list_taps(BilateralPlan& plan) {
  const int64_t ry = plan.radius[0], rx = plan.radius[1];
  plan.taps.push_back({0, 0, 0});
  for (int64_t dy = -ry; dy <= ry; ++dy)
    for (int64_t dx = -rx; dx <= rx; ++dx)
      if ((dy != 0 || dx != 0) && (!plan.params.circle || dy * dy + dx * dx <= ry * ry))
        plan.taps.push_back({dy, dx, dy * plan.packed_cols + dx});
}

void run_tasks(const BilateralPlan& plan, void (*task)(const BilateralPlan&, int64_t, void*),
               const Threads& threads) {
  for_each_block(threads, plan.tasks(), [&](int64_t index, Scratch& scratch) {
    task(plan, index, scratch.reserve(plan.scratch_bytes));
  });
}

template <class T>
void run_general(BilateralPlan& plan, void (*task)(const BilateralPlan&, int64_t, void*),
                 const Threads& threads) {
  const BilateralTables<T> tables(plan.params, plan.taps);
  plan.log_space = tables.log_space.data();
  plan.color_scale = tables.color_scale.data();
  run_tasks(plan, task, threads);
}

// Whether the fused kernel is written for these channels, and powers of 2 of these sigmas are numbers
// whose inverse is one.
bool can_fuse(const BilateralParams& params, const BilateralTables<float>& powers) {
  const int64_t guides = params.guidance.size[1], channels = params.input.size[1];
  const bool few = guides == 1 || guides == 3;
  const bool known = is_joint(params) ? few && (channels == 1 || channels == 3) : few || guides == 4;
  return known && std::all_of(powers.color_scale.begin(), powers.color_scale.end(),
                              [](float scale) { return scale > 0x1p-100f && scale < 0x1p100f; });
}

void run_float(BilateralPlan& plan, const Threads& threads) {
  const BilateralTables<float> powers(plan.params, plan.taps, kLog2E);
  if (!can_fuse(plan.params, powers)) return run_general<float>(plan, kernels().bilateral->task_f32, threads);
  plan.log2_space = powers.log_space.data();
  plan.log2_color_scale = powers.color_scale.data();
  plan.scratch_bytes += static_cast<size_t>(kFusedChannels * plan.packed_cols) * sizeof(float);
  run_general<float>(plan, kernels().bilateral->fused_task, threads);
}

}  // namespace

template <class T>
BilateralTables<T>::BilateralTables(const BilateralParams& params, const std::vector<BilateralTap>& taps,
                                    double unit) {
  for (int64_t row = 0; row < params.sigma_space.size / 2; ++row) {
    const double sigma_y = sigma_at(params.sigma_space, 2 * row);
    const double sigma_x = sigma_at(params.sigma_space, 2 * row + 1);
    for (const BilateralTap& tap : taps) {
      const double y = static_cast<double>(tap.dy) / sigma_y, x = static_cast<double>(tap.dx) / sigma_x;
      log_space.push_back(static_cast<T>(-0.5 * unit * (y * y + x * x)));
    }
  }
  for (int64_t i = 0; i < params.sigma_color.size; ++i) {
    // Finite, or equal colours (distance 0) would get the weight 0 * infinity.
    const double scale = std::sqrt(0.5 * unit) / sigma_at(params.sigma_color, i);
    color_scale.push_back(
        static_cast<T>(std::min(scale, static_cast<double>(std::numeric_limits<T>::max()))));
  }
}

template struct BilateralTables<float>;
template struct BilateralTables<double>;

BilateralPlan make_bilateral_plan(const BilateralParams& params, bool enlarged, int64_t planes,
                                  int64_t rows) {
  const int64_t element = accumulation_bytes(params.input.dtype);
  BilateralPlan plan{};
  plan.params = params;
  plan.images = params.input.size[0];
  plan.planes = planes;
  for (int axis = 0; axis < 2; ++axis) {
    plan.radius[axis] = params.kernel_size[axis] / 2;
    plan.origin[axis] = enlarged ? -plan.radius[axis] : 0;
    plan.extent[axis] = params.input.size[2 + axis] - 2 * plan.origin[axis];
  }
  choose_tiles(plan, element);
  list_taps(plan);
  const int64_t elements =
      planes * plan.plane_elements() + kTapChunk * kTileColumns + rows * plan.row_elements;
  plan.scratch_bytes = static_cast<size_t>(elements * element);
  return plan;
}

void run(const BilateralParams& params, const Threads& threads) {
  const int64_t channels = params.input.size[1];
  BilateralPlan plan = make_bilateral_plan(
      params, false, params.guidance.size[1] + (is_joint(params) ? channels : 0), 1 + channels);
  if (params.input.dtype == DType::kFloat64) {
    run_general<double>(plan, kernels().bilateral->task_f64, threads);
  } else {
    run_float(plan, threads);
  }
}

std::string explain(const BilateralParams&, const KernelTable& table) {
  return chosen_line("bilateral_tile", table);
}

}  // namespace denoise_ext::cpu
