#include "conv_plan.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <utility>

#include "conv_kernels.h"
#include "isa.h"

namespace denoise_ext::cpu {
namespace {

// A packed input tile should leave room in a 1 MiB second-level cache for the weights that stream by.
constexpr int64_t kTileBytes = 256 * 1024;
// 8 x 48 outputs: the halo of a 3x3 kernel adds 30 % to the packing, and 48 is a multiple of every
// pixel group (6, 8, 12, 24), so full tiles waste no sums.
constexpr int64_t kTileRows = 8, kTileCols = 48, kSmallestCols = 12;
// Input that is read where it lies comes in long runs, which the processor's prefetching likes.
constexpr int64_t kStripCols = 3072;

// A dense block gives every output channel a lane of a vector, so that few of them waste most of it.
constexpr int64_t kFewOutputs = 4;
constexpr int64_t kFewTaps = 16;
// Rows of a task that reads its input where it lies, and how many such tasks are wanted of an image.
constexpr int64_t kDepthwiseRows = 16, kDepthwiseTiles = 16, kFewestDepthwiseTiles = 4;
// Phases whose outputs of one tile stay in the second-level cache together.
constexpr int64_t kMostPhasesTogether = 16;
// With fewer tiles each phase has tasks of its own, for processors of many cores.
constexpr int64_t kFewestTilesTogether = 16;
// An output of more than a good part of the last-level cache will not be found there by its reader.
constexpr int64_t kCachedBytes = 8 * 1024 * 1024;

struct AxisTap {
  int64_t offset, index;  // of the input from output * in_step, of the weight
};

// Outputs first, first + step, ... along one axis, and the taps that reach them.
struct AxisRun {
  int64_t first, step, count;
  std::vector<AxisTap> taps;
};

// The same where vectors are read from an image: the last one ends with the channels.
// Many taps are read of narrow blocks: those of all rows then stay in the first-level cache.
std::vector<ChannelBlock> blocks_in_place(int64_t channels, int lanes, int accumulators, int64_t taps) {
  if (taps > kFewTaps) accumulators = std::min(accumulators, 16);
  const int64_t rest = channels % lanes;
  std::vector<ChannelBlock> blocks = channel_blocks(channels - rest, lanes, accumulators);
  if (rest > 0) blocks.push_back({channels - lanes, 1, lanes - rest});
  return blocks;
}

// Whether any of the run's outputs reads a pixel of the image, or what a border other than zeros repeats.
bool reads_image(const ConvPlan& plan, int axis, const AxisRun& run, int64_t offset) {
  const ConvParams& p = plan.params;
  // Packed weights have a place for every tap.
  if (p.border != Border::kConstant || p.packed_weight.data != nullptr) return true;
  const int64_t step = plan.in_step[axis];
  const int64_t inside = offset >= 0 ? 0 : divide_up(-offset, step);  // the first output that is not above
  return inside < run.count && inside * step + offset < p.input.size[2 + axis];
}

// The outputs of [0, extent) whose remainders by `period` are in none of `runs`, sorted by `first`. They are
// cut by remainder or by interval between the runs' outputs, whichever makes fewer.
std::vector<AxisRun> runs_between(const std::vector<AxisRun>& runs, int64_t extent, int64_t period) {
  struct Gap {
    int64_t begin, end;
  };
  std::vector<Gap> gaps;
  int64_t begin = 0, remainders = 0;
  const auto close = [&](int64_t end) {
    if (end > begin) gaps.push_back({begin, end});
    remainders += std::max<int64_t>(end - begin, 0);
  };
  for (const AxisRun& run : runs) {
    close(run.first);
    begin = run.first + 1;
  }
  close(std::min(period, extent));
  std::vector<AxisRun> result;
  const int64_t periods = divide_up(extent, period);
  for (const Gap& gap : gaps) {
    if (remainders <= periods * static_cast<int64_t>(gaps.size())) {
      for (int64_t first = gap.begin; first < gap.end; ++first)
        result.push_back({first, period, divide_up(extent - first, period), {}});
      continue;
    }
    for (int64_t first = gap.begin; first < extent; first += period)
      result.push_back({first, 1, std::min(gap.end - gap.begin, extent - first), {}});
  }
  return result;
}

// All outputs along one axis: those that some tap reaches, then the others.
std::vector<AxisRun> axis_runs(const ConvPlan& plan, int axis) {
  const ConvParams& p = plan.params;
  const int64_t extent = p.output.size[2 + axis], period = p.transposed ? p.stride[axis] : 1;
  std::map<int64_t, AxisRun> runs;  // by remainder
  for (int64_t u = 0; u < p.weight.size[2 + axis]; ++u) {
    const int64_t shift = u * p.dilation[axis] - p.padding[axis];
    // Transposed: output = input * stride + shift.
    const int64_t first = (shift % period + period) % period;
    if (first >= extent) continue;
    const int64_t offset = p.transposed ? (first - shift) / period : shift;
    AxisRun& run = runs[first];
    run = {first, period, divide_up(extent - first, period), std::move(run.taps)};
    if (reads_image(plan, axis, run, offset)) run.taps.push_back({offset, u});
  }
  std::vector<AxisRun> all;
  for (auto& [first, run] : runs)
    if (!run.taps.empty()) all.push_back(std::move(run));
  std::vector<AxisRun> rest = runs_between(all, extent, period);
  std::move(rest.begin(), rest.end(), std::back_inserter(all));
  return all;
}

void add_phase(ConvPlan& plan, const AxisRun& rows, const AxisRun& cols) {
  const std::vector<AxisTap>&ys = rows.taps, &xs = cols.taps;
  ConvPhase phase{};
  phase.out_y0 = rows.first;
  phase.out_x0 = cols.first;
  phase.out_step[0] = rows.step;
  phase.out_step[1] = cols.step;
  phase.rows = rows.count;
  phase.cols = cols.count;
  phase.tap_begin = static_cast<int64_t>(plan.taps.size());
  for (const AxisTap& y : ys)
    for (const AxisTap& x : xs) plan.taps.push_back({y.offset, x.offset, y.index, x.index, 0});
  phase.tap_count = static_cast<int64_t>(plan.taps.size()) - phase.tap_begin;
  phase.tap_rows = static_cast<int64_t>(ys.size());
  phase.tap_cols = static_cast<int64_t>(xs.size());
  const auto by_offset = [](const AxisTap& a, const AxisTap& b) { return a.offset < b.offset; };
  if (phase.tap_count > 0) {
    phase.min_dy = std::min_element(ys.begin(), ys.end(), by_offset)->offset;
    phase.max_dy = std::max_element(ys.begin(), ys.end(), by_offset)->offset;
    phase.min_dx = std::min_element(xs.begin(), xs.end(), by_offset)->offset;
    phase.max_dx = std::max_element(xs.begin(), xs.end(), by_offset)->offset;
  }
  plan.phases.push_back(phase);
}

void add_phases(ConvPlan& plan) {
  const std::vector<AxisRun> columns = axis_runs(plan, 1);
  const AxisRun all_columns{0, 1, plan.params.output.size[3], {}};
  for (const AxisRun& rows : axis_runs(plan, 0)) {
    if (rows.taps.empty()) {
      add_phase(plan, rows, all_columns);
    } else {
      for (const AxisRun& cols : columns) add_phase(plan, rows, cols);
    }
  }
}

// Vectors of filters that leave registers for enough pixels.
int64_t widest_block(int accumulators) {
  return accumulators >= 24 ? 4 : 2;
}

// How many phases one product can have as further filters.
int choose_phases_at_once(const ConvPlan& plan, int accumulators) {
  const ConvPhase& front = plan.phases.front();
  const auto vectors = static_cast<size_t>(plan.blocks.front().vectors);
  const bool whole = !plan.few_outputs && plan.params.groups == 1 && plan.blocks.size() == 1 &&
                     plan.in_place_input && plan.in_place_output && plan.group_outputs == plan.padded_outputs;
  const bool alike = std::all_of(plan.phases.begin(), plan.phases.end(), [&](const ConvPhase& phase) {
    return phase.tap_count == 1 && phase.min_dy == front.min_dy && phase.min_dx == front.min_dx &&
           phase.rows == front.rows && phase.cols == front.cols;
  });
  if (!whole || !alike) return 1;
  auto count = static_cast<size_t>(widest_block(accumulators)) / vectors;
  while (count > 1 && plan.phases.size() % count > 0) count /= 2;
  return static_cast<int>(count);
}

void choose_tiles(ConvPlan& plan, int accumulators) {
  int64_t span_y = 0, span_x = 0, taps_y = 0, taps_x = 0;
  for (const ConvPhase& phase : plan.phases) {
    span_y = std::max(span_y, phase.max_dy - phase.min_dy);
    span_x = std::max(span_x, phase.max_dx - phase.min_dx);
    taps_y = std::max(taps_y, phase.tap_rows);
    taps_x = std::max(taps_x, phase.tap_cols);
  }
  plan.pixel_group = plan.few_outputs ? plan.lanes / plan.group_outputs : 1;
  if (!plan.few_outputs)
    for (const ChannelBlock& block : plan.blocks)
      plan.pixel_group =
          std::max<int64_t>(plan.pixel_group, accumulators / (block.vectors * plan.phases_at_once));
  const int64_t element = plan.is_double() ? 8 : 4;
  plan.tile_rows = kTileRows;
  plan.tile_cols = plan.in_place_input ? kStripCols : kTileCols;
  const auto input_bytes = [&](int64_t rows, int64_t cols) {
    // The last group of pixels may run past the tile by pixel_group - 1 outputs.
    plan.packed[0] = packed_axis(rows, plan.in_step[0], taps_y, span_y);
    plan.packed[1] = packed_axis(cols + plan.pixel_group - 1, plan.in_step[1], taps_x, span_x);
    const int64_t pixels = plan.packed[0].length * plan.packed[1].length;
    plan.packed_elements = divide_up(pixels * plan.packed_channels, 16) * 16;
    return plan.packed_elements * element;
  };
  while (input_bytes(plan.tile_rows, plan.tile_cols) > kTileBytes && plan.tile_rows > 1) plan.tile_rows /= 2;
  while (input_bytes(plan.tile_rows, plan.tile_cols) > kTileBytes && plan.tile_cols > kSmallestCols)
    plan.tile_cols /= 2;
  if (plan.in_place_input) input_bytes(1, 1);
  if (plan.phases_at_once > 1)
    plan.tile_rows = std::clamp<int64_t>(plan.phases.front().rows / kFewestTilesTogether, 1, kTileRows);
  if (plan.depthwise_in_place) {
    // Every task reads a border of its neighbours' rows, so it has no fewer of its own.
    const ConvPhase& phase = plan.phases.front();
    const int64_t fewest = std::min(phase.tap_rows, phase.rows / kFewestDepthwiseTiles);
    const int64_t most = std::min(phase.rows / kDepthwiseTiles, kDepthwiseRows);
    plan.tile_rows = std::max<int64_t>({fewest, most, 1});
  }
  // (accumulators / V) pixels of V vectors, rounded down; a block that skips channels ends as much later.
  const int64_t sums = (accumulators + 1) * plan.lanes;
  plan.scratch_bytes = static_cast<size_t>((plan.packed_elements + sums) * element);
}

void number_tasks(ConvPlan& plan) {
  for (ConvPhase& phase : plan.phases) {
    phase.tiles_y = divide_up(phase.rows, plan.tile_rows);
    phase.tiles_x = divide_up(phase.cols, plan.tile_cols);
  }
  const ConvPhase& front = plan.phases.front();
  plan.phases_together =
      plan.phases.size() > 1 && static_cast<int64_t>(plan.phases.size()) <= kMostPhasesTogether &&
      front.tiles_y * front.tiles_x >= kFewestTilesTogether &&
      std::all_of(plan.phases.begin(), plan.phases.end(), [&](const ConvPhase& phase) {
        return phase.out_step[0] == front.out_step[0] && phase.out_step[1] == front.out_step[1] &&
               phase.tiles_y == front.tiles_y && phase.tiles_x == front.tiles_x;
      });
  plan.phases_together = plan.phases_together || plan.phases_at_once > 1;
  if (plan.phases_together) plan.tasks_per_slice = front.tiles_y * front.tiles_x;
  for (ConvPhase& phase : plan.phases) {
    if (!plan.phases_together) {
      phase.task_begin = plan.tasks_per_slice;
      plan.tasks_per_slice += phase.tiles_y * phase.tiles_x;
    }
    for (int64_t t = 0; t < phase.tap_count; ++t) {
      ConvTap& tap = plan.taps[static_cast<size_t>(phase.tap_begin + t)];
      const int64_t dy = tap.dy - phase.min_dy, dx = tap.dx - phase.min_dx;
      const int64_t row = plan.packed[0].place(t / phase.tap_cols, dy);
      const int64_t col = plan.packed[1].place(t % phase.tap_cols, dx);
      tap.offset = (row * plan.packed[1].length + col) * plan.packed_channels;
      plan.packed_offsets.push_back(tap.offset);
      plan.image_offsets.push_back(dy * plan.params.input.stride[2] + dx * plan.params.input.stride[3]);
    }
  }
}

// Whether vectors of the tensor's channels can be read or written where they are.
bool has_adjacent_channels(const ConvPlan& plan, const Tensor4& tensor) {
  return tensor.dtype == (plan.is_double() ? DType::kFloat64 : DType::kFloat32) &&
         (tensor.stride[1] == 1 || tensor.size[1] == 1);
}

void choose_access(ConvPlan& plan, const KernelTable& table) {
  const ConvParams& p = plan.params;
  plan.in_place_input = has_adjacent_channels(plan, p.input) &&
                        (!plan.depthwise || p.input.size[1] == p.output.size[1]) &&
                        (!plan.few_outputs || p.input.size[1] % plan.lanes == 0);
  const bool residual_fits = p.residual.data == nullptr || has_adjacent_channels(plan, p.residual);
  const bool residual_first = p.residual.data == nullptr || p.activation == Activation::kNone ||
                              p.residual_position == ResidualPosition::kBeforeActivation;
  plan.in_place_output = has_adjacent_channels(plan, p.output) && residual_fits && residual_first &&
                         (p.activation == Activation::kNone || p.activation == Activation::kRelu);
  const int64_t element = plan.is_double() ? 8 : 4, vector = table.vector_bytes;
  bool aligned = reinterpret_cast<uintptr_t>(p.output.data) % static_cast<uintptr_t>(vector) == 0 &&
                 plan.group_outputs * element % vector == 0;
  int64_t bytes = element;
  for (int d = 0; d < 4; ++d) {
    bytes *= p.output.size[d];
    aligned = aligned && (d == 1 || p.output.stride[d] * element % vector == 0);
  }
  // A depthwise convolution waits for memory, which the two ways of writing share badly with reading. What
  // takes the place of its residual is in the caches already.
  const bool in_caches = p.residual.data == p.output.data;
  plan.stream = plan.in_place_output && !plan.few_outputs && !plan.depthwise && aligned && !in_caches &&
                bytes > kCachedBytes;
}

}  // namespace

std::vector<ChannelBlock> channel_blocks(int64_t channels, int lanes, int accumulators) {
  const int64_t vectors = divide_up(channels, lanes);
  const int64_t count = divide_up(vectors, widest_block(accumulators));
  std::vector<ChannelBlock> blocks;
  int64_t first = 0;
  for (int64_t b = 0; b < count; ++b) {
    const int64_t width = vectors / count + (b < vectors % count ? 1 : 0);
    blocks.push_back({first * lanes, static_cast<int>(width)});
    first += width;
  }
  return blocks;
}

PackedAxis packed_axis(int64_t outputs, int64_t in_step, int64_t taps, int64_t span) {
  const int64_t contiguous = (outputs - 1) * in_step + span + 1, gathered = taps * outputs;
  // A run of pixels is packed faster than as many apart.
  if (contiguous <= 2 * std::max<int64_t>(gathered, 1)) return {false, in_step, 1, contiguous, contiguous};
  return {true, 1, taps, outputs, gathered};
}

bool has_few_outputs(const ConvParams& params, int64_t lanes) {
  const int64_t outputs = params.output.size[1];
  return params.groups == 1 && outputs <= kFewOutputs && outputs <= lanes && params.input.size[1] >= lanes;
}

const char* gate_obstacle(const ConvParams& params, const KernelTable& table) {
  const ConvGate& gate = params.gate;
  if (gate.activation != Activation::kNone && !is_long(gate.activation))
    return "gates have no relu, leaky_relu or prelu";
  if ((params.packed_weight.data == nullptr) != (gate.packed_weight.data == nullptr))
    return "one weight is packed, the other one is not";
  const ConvPlan plan = make_conv_plan(params, table);
  if (plan.few_outputs) return "the output has too few channels";
  if (plan.depthwise) {
    const bool alike = std::equal(params.input.stride, params.input.stride + 4, gate.input.stride);
    return plan.depthwise_in_place && alike ? nullptr
                                            : "depthwise, channels must lie side by side, and fill a vector";
  }
  if (params.groups > 1) return "groups must be 1, or as many as channels";
  return gate.input.data == params.input.data ? nullptr : "a dense convolution's gate reads the same input";
}

ConvPlan make_conv_plan(const ConvParams& params, const KernelTable& table) {
  ConvPlan plan{};
  plan.params = params;
  plan.lanes = table.vector_bytes / (plan.is_double() ? 8 : 4);
  const int64_t inputs = params.input.size[1], outputs = params.output.size[1];
  plan.group_inputs = inputs / params.groups;
  plan.depthwise = params.groups > 1 && plan.group_inputs == 1;
  plan.group_outputs = plan.depthwise ? outputs : outputs / params.groups;
  plan.padded_outputs = divide_up(plan.group_outputs, plan.lanes) * plan.lanes;
  for (int axis = 0; axis < 2; ++axis) plan.in_step[axis] = params.transposed ? 1 : params.stride[axis];
  add_phases(plan);
  plan.blocks = channel_blocks(plan.group_outputs, plan.lanes, table.accumulators);
  plan.few_outputs = has_few_outputs(params, plan.lanes);
  plan.sides = params.gate.weight.data == nullptr ? 1 : 2;
  choose_access(plan, table);
  plan.depthwise_in_place =
      plan.depthwise && plan.in_place_input && outputs >= plan.lanes && params.border == Border::kConstant;
  if (plan.depthwise_in_place)
    plan.blocks = blocks_in_place(outputs, plan.lanes, table.accumulators,
                                  params.weight.size[2] * params.weight.size[3]);
  plan.packed_channels = plan.depthwise     ? plan.blocks.front().vectors * static_cast<int64_t>(plan.lanes)
                         : plan.few_outputs ? divide_up(inputs, plan.lanes) * plan.lanes
                                            : plan.group_inputs;
  plan.slices = plan.depthwise_in_place ? 1
                : plan.depthwise        ? static_cast<int64_t>(plan.blocks.size())
                                        : params.groups;
  plan.phases_at_once = choose_phases_at_once(plan, table.accumulators);
  choose_tiles(plan, table.accumulators);
  number_tasks(plan);
  return plan;
}

}  // namespace denoise_ext::cpu
