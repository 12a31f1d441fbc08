#include "conv_rowring_plan.h"

#include <algorithm>

#include "conv_conditions.h"

namespace denoise_ext::cuda {
namespace {

struct Choice {
  bool large;
  bool all_planes;   // the ring holds all input channels, so a row is read once per strip
  int weight_slots;  // 0: all weights stay in shared memory
};

// From fastest to smallest; the first that fits the device's shared memory is taken. For 64 -> 64
// channels, 3x3, that is the first with 163 KiB (sm_80) or more, 158 720 bytes; the fourth with 99 KiB
// (sm_86, 89, 120), 100 352 bytes; the seventh with 64 KiB (sm_75), 51 200 bytes.
constexpr Choice kChoices[] = {
    {true, true, 0},  {true, true, 2},   {true, false, 2}, {false, true, 0},
    {false, true, 2}, {false, false, 2}, {false, true, 1}, {false, false, 1},
};

size_t apply(const Choice& choice, RowRingPlan& plan) {
  const RowRingTile tile = row_ring_tile(plan.element_bytes, plan.kernel, choice.large);
  plan.large = choice.large;
  plan.planes = choice.all_planes ? plan.chunks : 1;
  plan.weight_slots = choice.weight_slots == 0 ? plan.chunks * plan.kernel : choice.weight_slots;
  // Room for the window and the next one's new rows: where a pass has other channels than the one
  // before, all of them.
  const int next = plan.planes == plan.chunks ? tile.rows : tile.window;
  plan.ring_rows = tile.window + next;
  plan.shared_bytes = in_arena(int64_t{plan.weight_slots} * tile.column_bytes) +
                      in_arena(int64_t{plan.planes} * plan.ring_rows * tile.row_bytes) +
                      in_arena(2 * kRowRingOutputs * 4);
  return plan.shared_bytes;
}

int64_t row_groups(const ConvParams& p, const RowRingPlan& plan, bool large) {
  const RowRingTile tile = row_ring_tile(plan.element_bytes, plan.kernel, large);
  return plan.output_blocks * p.output.size[0] * divide_up(p.output.size[2], tile.rows) *
         divide_up(p.output.size[3], tile.width);
}

}  // namespace

const char* row_ring_cannot_run(const ConvParams& p, const DeviceLimits& limits) {
  const int64_t kernel = p.weight.size[2];
  if (p.input.dtype == DType::kFloat64) return "takes float16, bfloat16 and float32 only";
  if (p.input.dtype == DType::kFloat32 && p.precision == Precision::kStrict)
    return "divides float32 factors into tf32 numbers, which precision='strict' excludes";
  if (limits.compute_capability < 75) return "needs compute capability 7.5";
  if (p.input.dtype != DType::kFloat16 && limits.compute_capability < 80)
    return "bfloat16 and tf32 need compute capability 8.0";
  if (p.groups != 1) return "takes groups = 1 only";
  if (p.stride[0] != 1 || p.stride[1] != 1) return "takes stride 1 only";
  if (p.dilation[0] != 1 || p.dilation[1] != 1) return "takes dilation 1 only";
  if (kernel != p.weight.size[3] || (kernel != 1 && kernel != 3 && kernel != 5))
    return "takes 1x1, 3x3 and 5x5 kernels only";
  constexpr int64_t kLimit = int64_t{1} << 29;
  for (int axis = 0; axis < 4; ++axis)
    if (p.input.size[axis] >= kLimit || p.output.size[axis] >= kLimit || p.padding[axis / 2] >= kLimit)
      return "takes images, channels and padding below 2^29 only";
  if (row_ring_plan(p, limits).shared_bytes > static_cast<size_t>(limits.shared_bytes))
    return "needs more shared memory per block than the device has";
  return nullptr;
}

RowRingPlan row_ring_plan(const ConvParams& p, const DeviceLimits& limits) {
  RowRingPlan plan{};
  plan.element_bytes = static_cast<int>(element_bytes(p.input.dtype));
  plan.split = p.input.dtype == DType::kFloat32 && p.precision != Precision::kFast;
  plan.kernel = static_cast<int>(p.weight.size[2]);
  // A transposed convolution of stride 1 is one with the taps rotated: where that one's first tap
  // lies `padding` outside the image, this one's last does.
  const int64_t reach = p.transposed ? plan.kernel - 1 : 0;
  plan.top = static_cast<int>(p.transposed ? reach - p.padding[0] : p.padding[0]);
  plan.left = static_cast<int>(p.transposed ? reach - p.padding[1] : p.padding[1]);
  plan.output_blocks = static_cast<int>(divide_up(p.output.size[1], kRowRingOutputs));
  plan.chunks = static_cast<int>(
      divide_up(p.input.size[1], row_ring_tile(plan.element_bytes, plan.kernel, true).chunk));
  plan.vector_input =
      has_wide_pixels(p.input) && (p.input_mask.saved.data == nullptr || has_wide_pixels(p.input_mask.saved));
  plan.vector_output = has_wide_pixels(p.output);
  plan.vector_residual = p.residual.data != nullptr && has_wide_pixels(p.residual);
  plan.vector_end = wide_output(p) && !is_long(p.activation);
  // A small image gives every multiprocessor work only in small pieces.
  const bool small =
      !has_large_tile(plan.element_bytes, plan.kernel) || row_groups(p, plan, true) < limits.multiprocessors;
  for (const Choice& choice : kChoices)
    if (!(choice.large && small) && apply(choice, plan) <= static_cast<size_t>(limits.shared_bytes)) break;
  plan.groups = row_groups(p, plan, plan.large);
  const int64_t fit = plan.large ? 1 : limits.shared_bytes / static_cast<int64_t>(plan.shared_bytes);
  const int64_t resident =
      std::clamp<int64_t>(fit, 1, row_ring_small_blocks(plan.element_bytes)) * limits.multiprocessors;
  plan.blocks = static_cast<int>(std::min(plan.groups, resident));
  return plan;
}

// The larger of the time of the tensor cores, at their rate for float sums, and of memory.
double row_ring_cost(const ConvParams& p, const DeviceLimits& limits) {
  const RowRingPlan plan = row_ring_plan(p, limits);
  const RowRingTile tile = row_ring_tile(plan.element_bytes, plan.kernel, plan.large);
  // Of a block of 32 output channels or less half of the warps idle, which saves less than half the time.
  const int64_t rest = (p.output.size[1] - 1) % kRowRingOutputs + 1;
  const double outputs = kRowRingOutputs * (plan.output_blocks - (rest <= kRowRingOutputs / 2 ? 0.3 : 0.0));
  const double pixels = static_cast<double>(plan.groups / plan.output_blocks) * tile.rows * tile.width;
  const double taps = static_cast<double>(plan.kernel) * plan.kernel;
  const int64_t step = 32 / plan.element_bytes;  // channels that one matrix product sums over
  const double products =
      pixels * outputs * static_cast<double>(divide_up(p.input.size[1], step) * step) * taps;
  // Each block of output channels reads the input anew. Single elements instead of 16 bytes at a time
  // take about three times as long.
  const double read = plan.output_blocks * tensor_bytes(p.input) * (plan.vector_input ? 1.2 : 3.0);
  const double written = tensor_bytes(p.output) * (plan.vector_output ? 1.2 : 3.0);
  const double bytes = read + written + tensor_bytes(p.residual) * (plan.vector_residual ? 1.2 : 3.0);
  constexpr double kPacking = 3;  // one launch more than kernels without a workspace
  return kPacking + std::max(tensor_cost(products * (plan.split ? 3 : 1), 2.0 / plan.element_bytes, limits),
                             memory_cost(bytes, limits));
}

int64_t row_ring_workspace_bytes(const ConvParams& p, const DeviceLimits& limits) {
  const RowRingPlan plan = row_ring_plan(p, limits);
  return int64_t{plan.output_blocks} * plan.chunks * plan.kernel *
         row_ring_tile(plan.element_bytes, plan.kernel, plan.large).column_bytes;
}

}  // namespace denoise_ext::cuda
