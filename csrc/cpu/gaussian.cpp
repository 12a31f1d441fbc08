#include "gaussian.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "gaussian_kernels.h"
#include "sigma.h"

namespace denoise_ext::cpu {
namespace {

// A ring should fit a first-level cache with the line that feeds it, or a second-level one where the
// kernel is large; wider than 1024 elements gains nothing.
constexpr int64_t kRingBytes = 64 * 1024, kWidestTile = 1024;
// Rows of a strip per row of the kernel: the rows around a strip are filtered again by its neighbour.
constexpr int64_t kStripKernels = 4, kSmallestStripKernels = 2;
constexpr int64_t kStripRows = 64, kSmallestStripRows = 16;

// The dense kernel's lines, of 4 or 2 bytes an element: wide, because each row of an image that is not in
// cache begins slowly; kDenseRows of them and the rows they are summed from fit a second-level cache.
constexpr int64_t kDenseTileBytes = 16 * 1024, kHighestDenseStrip = 128;
// The radius on both sides of a tile is summed vertically again by its neighbours.
constexpr int64_t kDenseTileRadii = 8;
// A result that fills the larger part of a usual last-level cache pushes out what is read, and is not there
// any more when it is wanted.
constexpr int64_t kStreamingBytes = int64_t{16} << 20;

int64_t round_up(int64_t value, int64_t multiple) {
  return divide_up(value, multiple) * multiple;
}

// ---- taps -----------------------------------------------------------------------------------------

// exp(-(i - radius)^2 / (2 sigma^2)), normalised.
std::vector<double> gaussian_taps(int64_t radius, double sigma) {
  std::vector<double> taps(static_cast<size_t>(2 * radius + 1));
  double sum = 0;
  for (int64_t i = 0; i <= 2 * radius; ++i) {
    const double distance = static_cast<double>(i - radius) / sigma;
    sum += taps[static_cast<size_t>(i)] = std::exp(-0.5 * distance * distance);
  }
  for (double& tap : taps) tap /= sum;
  return taps;
}

// The taps times 256 as the integers OpenCV takes for 8-bit images (getGaussianKernelFixedPoint_ED):
// each half is rounded with the error carried on, the centre makes the sum 256.
std::vector<double> fixed_point_taps(const std::vector<double>& taps) {
  std::vector<double> fixed(taps.size());
  const size_t radius = taps.size() / 2;
  double error = 0, sum = 0;
  for (size_t i = 0; i < radius; ++i) {
    const double wanted = taps[i] * 256 + error;
    fixed[i] = fixed[taps.size() - 1 - i] = std::nearbyint(wanted);
    error = wanted - fixed[i];
    sum += fixed[i];
  }
  fixed[radius] = 256 - 2 * sum;
  return fixed;
}

// d taps[i] / d sigma = taps[i] (u_i^2 - sum_j taps[j] u_j^2) / sigma with u_i = (i - radius) / sigma.
std::vector<double> tap_derivatives(const std::vector<double>& taps, double sigma) {
  const int64_t radius = static_cast<int64_t>(taps.size() / 2);
  std::vector<double> moments(taps.size());  // taps[i] u_i^2; where the tap is 0, so is its derivative
  double mean = 0;
  for (size_t i = 0; i < taps.size(); ++i) {
    const double u = static_cast<double>(static_cast<int64_t>(i) - radius) / sigma;
    mean += moments[i] = taps[i] > 0 ? taps[i] * u * u : 0.0;
  }
  std::vector<double> derivative(taps.size());
  for (size_t i = 0; i < taps.size(); ++i) derivative[i] = (moments[i] - taps[i] * mean) / sigma;
  return derivative;
}

// From this distance on a tap reads what a nearer one reads too, or nothing: a border repeats the image's
// pixels, reflected ones with a period of 2 (extent - 1).
int64_t largest_radius(int64_t extent, Border border) {
  return border == Border::kCircular ? extent / 2 : extent - 1;
}

// The distance, at most largest_radius(), from which every position reads the pixels that it reads at
// `distance` before and behind it; or -1 where those are zeros.
int64_t folded_distance(int64_t distance, int64_t extent, Border border) {
  switch (border) {
    case Border::kConstant: return distance < extent ? distance : -1;
    case Border::kReplicate: return std::min(distance, extent - 1);
    default: break;
  }
  const int64_t period = border == Border::kCircular ? extent : std::max<int64_t>(2 * (extent - 1), 1);
  const int64_t rest = distance % period;
  return std::min(rest, period - rest);
}

// Symmetric taps of a radius beyond largest_radius() as those of that radius that filter an image alike.
std::vector<double> folded_taps(const std::vector<double>& taps, int64_t extent, Border border) {
  const int64_t radius = static_cast<int64_t>(taps.size() / 2), kept = largest_radius(extent, border);
  if (radius <= kept) return taps;
  std::vector<double> folded(static_cast<size_t>(2 * kept + 1));
  folded[static_cast<size_t>(kept)] = taps[static_cast<size_t>(radius)];
  for (int64_t distance = 1; distance <= radius; ++distance) {
    const int64_t nearer = folded_distance(distance, extent, border);
    if (nearer < 0) break;
    folded[static_cast<size_t>(kept - nearer)] += taps[static_cast<size_t>(radius - distance)];
    folded[static_cast<size_t>(kept + nearer)] += taps[static_cast<size_t>(radius + distance)];
  }
  return folded;
}

// Row edge_row(q) holds the taps with which the adjoint gathers position q from q - radius .. q +
// radius: the filter's own, plus those of the positions outside the image that are read from q.
std::vector<double> adjoint_edge_taps(const std::vector<double>& taps, int64_t extent, Border border) {
  const int64_t radius = static_cast<int64_t>(taps.size() / 2), size = 2 * radius + 1;
  const int64_t count = edge_count(extent, radius);
  std::vector<double> edge;
  for (int64_t row = 0; row < count; ++row) edge.insert(edge.end(), taps.begin(), taps.end());
  for (int64_t distance = 1; distance <= radius; ++distance) {
    for (const int64_t outside : {-distance, extent - 1 + distance}) {
      const int64_t q = border_index(outside, extent, border);
      double* row = edge.data() + edge_row(q, extent, radius) * size;
      const int64_t first = std::max<int64_t>(0, outside - radius);
      const int64_t last = std::min(extent - 1, outside + radius);
      for (int64_t y = first; y <= last; ++y)
        row[y - q + radius] += taps[static_cast<size_t>(y - outside + radius)];
    }
  }
  return edge;
}

template <class T>
struct GaussianTables {
  std::vector<T> taps[2], derivative[2], edge_taps[2];
};

template <class T>
void append(std::vector<T>& to, const std::vector<double>& values) {
  for (const double value : values) to.push_back(static_cast<T>(value));
}

// Fills the plan's tables; `adjoint` and `gradient` say which it needs besides the taps.
template <class T>
GaussianTables<T> make_tables(GaussianPlan& plan, const Tensor1& sigma, const int64_t (&kernel_size)[2],
                              bool adjoint, bool gradient) {
  GaussianTables<T> tables;
  // Extending by zeros or periodically, the adjoint's taps are the filter's everywhere.
  const bool edges = adjoint && (plan.border == Border::kReflect || plan.border == Border::kReplicate);
  for (int axis = 0; axis < 2; ++axis) {
    const int64_t extent = plan.input.size[2 + axis];
    const auto fold = [&](const std::vector<double>& taps) { return folded_taps(taps, extent, plan.border); };
    for (int64_t row = 0; row < plan.sigma_rows; ++row) {
      const double value = sigma_at(sigma, 2 * row + axis);
      const std::vector<double> window = gaussian_taps(kernel_size[axis] / 2, value);
      const std::vector<double> taps =
          fold(plan.input.dtype == DType::kUInt8 ? fixed_point_taps(window) : window);
      append(tables.taps[axis], taps);
      if (gradient) append(tables.derivative[axis], fold(tap_derivatives(window, value)));
      if (edges && plan.radius[axis] > 0)
        append(tables.edge_taps[axis], adjoint_edge_taps(taps, extent, plan.border));
    }
    plan.taps[axis] = tables.taps[axis].data();
    plan.derivative[axis] = gradient ? tables.derivative[axis].data() : nullptr;
    plan.edge_taps[axis] = tables.edge_taps[axis].empty() ? nullptr : tables.edge_taps[axis].data();
  }
  // What the adjoint reads beyond the image is zero; the edge taps stand for the border.
  if (edges) plan.border = Border::kConstant;
  return tables;
}

// ---- plan -----------------------------------------------------------------------------------------

void set_radius(GaussianPlan& plan, const int64_t (&kernel_size)[2]) {
  for (int axis = 0; axis < 2; ++axis)
    plan.radius[axis] =
        std::min(kernel_size[axis] / 2, largest_radius(plan.input.size[2 + axis], plan.border));
}

GaussianPlan make_plan(const Tensor4& input, const Tensor4& output, const Tensor1& sigma,
                       const int64_t (&kernel_size)[2], Border border, bool second_table) {
  GaussianPlan plan{};
  plan.input = input;
  plan.output = output;
  plan.border = border;
  plan.sigma_rows = sigma.size / 2;
  set_radius(plan, kernel_size);
  const int64_t rows = 2 * plan.radius[0] + 1, cols = 2 * plan.radius[1] + 1;  // of the window
  const int64_t channels = input.size[1], width = input.size[3];
  const int64_t element = accumulation_bytes(input.dtype);
  plan.channels = channels > 1 && output.stride[1] == 1 ? std::min(channels, kSliceChannels) : 1;
  plan.slices = divide_up(channels, plan.channels);
  const int64_t room = kRingBytes / (element * rows) / kRowElements * kRowElements;
  const int64_t widest = std::clamp(room, kRowElements, kWidestTile);
  // Tiles of equal width, in whole row blocks where a pixel is one element.
  plan.tiles = divide_up(width, std::max<int64_t>(1, widest / plan.channels));
  plan.tile_pixels = divide_up(width, plan.tiles);
  if (plan.channels == 1) plan.tile_pixels = std::min(width, round_up(plan.tile_pixels, kRowElements));
  plan.tiles = divide_up(width, plan.tile_pixels);
  plan.tile_elements = round_up(plan.tile_pixels * plan.channels, kRowElements);
  plan.line_elements = round_up(plan.tile_elements + 2 * plan.radius[1] * plan.channels, kRowElements);
  plan.row_table_bytes = round_up(rows * static_cast<int64_t>(sizeof(void*)), 64);
  const int64_t second_rows = second_table ? std::max(rows, cols) : 0;
  const int64_t tile_rows = 1 + rows + second_rows;
  const int64_t elements = plan.line_elements + tile_rows * plan.tile_elements;
  plan.scratch_bytes = static_cast<size_t>(plan.row_table_bytes + elements * element);
  return plan;
}

void set_strips(GaussianPlan& plan, int64_t rows) {
  const int64_t height = plan.input.size[2];
  plan.strips = divide_up(height, rows);
  plan.strip_rows = divide_up(height, plan.strips);  // of equal height
  plan.strips = divide_up(height, plan.strip_rows);
}

void run_tasks(const GaussianPlan& plan, void (*task)(const GaussianPlan&, int64_t, void*),
               const Threads& threads) {
  for_each_block(threads, plan.tasks(), [&](int64_t index, Scratch& scratch) {
    task(plan, index, scratch.reserve(plan.scratch_bytes));
  });
}

// ---- dense rows -----------------------------------------------------------------------------------

// Elements between horizontal neighbours of an image with dense rows; 0: they are not.
int64_t dense_step(const Tensor4& image) {
  const int64_t channels = image.size[1];
  if (channels > 1 && image.stride[1] == 1 && image.stride[3] == channels) return channels;
  return image.stride[3] == 1 ? 1 : 0;
}

// Whether the window holds taps that read nothing but zeros: without them the taps' sum is another one.
bool drops_taps(const GaussianParams& params) {
  bool drops = false;
  for (int axis = 0; axis < 2; ++axis)
    drops = drops || params.kernel_size[axis] / 2 >= params.input.size[2 + axis];
  return drops && params.border == Border::kConstant;
}

bool has_dense_rows(const GaussianParams& params) {
  const DType dtype = params.input.dtype;
  const int64_t step = dense_step(params.input);
  // The adjoint's taps at a reflected or replicated border are not the same for all columns.
  const bool same_taps =
      !params.adjoint || params.border == Border::kConstant || params.border == Border::kCircular;
  return same_taps && !drops_taps(params) && (dtype == DType::kFloat32 || dtype == DType::kUInt8) &&
         step > 0 && params.input.size[3] * step >= kRowElements;
}

GaussianPlan make_dense_plan(const GaussianParams& params, int threads) {
  GaussianPlan plan{};
  plan.input = params.input;
  plan.output = params.output;
  plan.border = params.border;
  plan.sigma_rows = params.sigma.size / 2;
  set_radius(plan, params.kernel_size);
  const int64_t *size = params.input.size, step = dense_step(params.input), radius = plan.radius[1];
  const int64_t element = params.input.dtype == DType::kUInt8 ? 2 : 4;
  plan.channels = step;
  plan.slices = step == 1 ? size[1] : 1;
  const int64_t pixels = std::max(kDenseTileBytes / (element * step), kDenseTileRadii * radius);
  // A tile extends its lines from pixels of its own.
  const bool whole = params.border == Border::kCircular || pixels >= size[3];
  plan.tiles = whole ? 1 : divide_up(size[3], pixels);
  plan.tile_pixels = divide_up(size[3], plan.tiles);
  plan.line_elements = round_up((plan.tile_pixels + 2 * radius) * step, kRowElements);
  const int64_t columns = size[0] * plan.slices * plan.tiles;
  const int64_t wanted = divide_up(columns * size[2], 4 * static_cast<int64_t>(threads));
  plan.strip_rows = round_up(std::clamp(wanted, kSmallestStripRows, kHighestDenseStrip), kDenseRows);
  plan.strips = divide_up(size[2], plan.strip_rows);
  // Pointers to the rows read and, of 16 bytes, the columns outside the image.
  plan.row_table_bytes = round_up(16 * (kDenseRows + plan.radius[0]) + 32 * radius, 64);
  plan.scratch_bytes =
      static_cast<size_t>(plan.row_table_bytes + (kDenseRows + 2) * plan.line_elements * element);
  const int64_t bytes = size[0] * size[1] * size[2] * size[3] * element;
  plan.streaming = params.input.dtype == DType::kFloat32 && bytes > kStreamingBytes;
  return plan;
}

void run_dense(const GaussianParams& params, const Threads& threads) {
  GaussianPlan plan = make_dense_plan(params, threads.count);
  if (params.input.dtype == DType::kUInt8) {
    const auto tables = make_tables<uint16_t>(plan, params.sigma, params.kernel_size, false, false);
    run_tasks(plan, kernels().gaussian->dense_task_u8, threads);
  } else {
    const auto tables = make_tables<float>(plan, params.sigma, params.kernel_size, false, false);
    run_tasks(plan, kernels().gaussian->dense_task_f32, threads);
  }
}

}  // namespace

void run(const GaussianParams& params, const Threads& threads) {
  if (has_dense_rows(params)) return run_dense(params, threads);
  GaussianPlan plan =
      make_plan(params.input, params.output, params.sigma, params.kernel_size, params.border, params.adjoint);
  // Strips are as high as keeps every thread busy: results do not depend on where they are cut.
  const int64_t columns = plan.input.size[0] * plan.slices * plan.tiles;
  const int64_t wanted = divide_up(columns * plan.input.size[2], 4 * static_cast<int64_t>(threads.count));
  const int64_t lowest = std::max(kSmallestStripRows, kSmallestStripKernels * (2 * plan.radius[0] + 1));
  set_strips(plan, std::max(lowest, wanted));
  if (plan.input.dtype == DType::kFloat64) {
    const auto tables = make_tables<double>(plan, params.sigma, params.kernel_size, params.adjoint, false);
    run_tasks(plan, kernels().gaussian->task_f64, threads);
  } else {
    const auto tables = make_tables<float>(plan, params.sigma, params.kernel_size, params.adjoint, false);
    run_tasks(plan, kernels().gaussian->task_f32, threads);
  }
}

void run(const GaussianSigmaGradParams& params, const Threads& threads) {
  GaussianPlan plan =
      make_plan(params.input, params.grad_output, params.sigma, params.kernel_size, params.border, true);
  set_strips(plan, std::max(kStripRows, kStripKernels * (2 * plan.radius[0] + 1)));
  std::vector<double> partial_sums(static_cast<size_t>(2 * plan.tasks()));
  plan.partial_sums = partial_sums.data();
  if (plan.input.dtype == DType::kFloat64) {
    const auto tables = make_tables<double>(plan, params.sigma, params.kernel_size, false, true);
    run_tasks(plan, kernels().gaussian->sigma_task_f64, threads);
  } else {
    const auto tables = make_tables<float>(plan, params.sigma, params.kernel_size, false, true);
    run_tasks(plan, kernels().gaussian->sigma_task_f32, threads);
  }
  std::fill_n(params.grad_sigma, params.sigma.size, 0.0);
  const int64_t tasks_per_image = plan.tasks() / plan.input.size[0];
  for (int64_t task = 0; task < plan.tasks(); ++task) {
    double* sums = params.grad_sigma + (plan.sigma_rows == 1 ? 0 : 2 * (task / tasks_per_image));
    sums[0] += partial_sums[static_cast<size_t>(2 * task)];
    sums[1] += partial_sums[static_cast<size_t>(2 * task + 1)];
  }
}

std::string explain(const GaussianParams& params, const KernelTable& table) {
  return chosen_line(has_dense_rows(params) ? "gaussian_dense" : "gaussian_ring", table);
}

std::string explain(const GaussianSigmaGradParams&, const KernelTable& table) {
  return chosen_line("gaussian_sigma_ring", table);
}

}  // namespace denoise_ext::cpu
