// When the kernels for transposed convolutions of stride 2 can run and what they cost (host code).
#include "conv_transpose_phases.h"

#include "conv_conditions.h"

namespace denoise_ext::cuda {
namespace {

using Phases = ConvTransposePhases;

// Cells along an axis, from the one of output 0 to the one of the last output.
int64_t cells(const ConvParams& p, int axis) {
  return (p.output.size[2 + axis] - 1 + p.padding[axis]) / 2 - p.padding[axis] / 2 + 1;
}

}  // namespace

Phases conv_transpose_phases(const ConvParams& p) {
  Phases t{};
  t.kh = static_cast<int>(p.weight.size[2]);
  t.kw = static_cast<int>(p.weight.size[3]);
  t.chunks = static_cast<int>(divide_up(p.input.size[1] * element_bytes(p.input.dtype), Phases::kPixelBytes));
  t.channel_blocks = static_cast<int>(divide_up(p.output.size[1], Phases::kOutputs));
  t.first_row = p.padding[0] / 2;
  t.first_col = p.padding[1] / 2;
  t.tiles_x = divide_up(cells(p, 1), Phases::kCols);
  t.tiles_y = divide_up(cells(p, 0), Phases::kRows);
  t.shared_bytes = in_arena(static_cast<size_t>(t.kh * t.kw) * Phases::kTapBytes) +
                   in_arena((Phases::kRows + 1) * (Phases::kCols + 1) * Phases::kPitchBytes) +
                   2 * in_arena(4 * Phases::kOutputs);
  return t;
}

const char* conv_transpose_phases_cannot_run(const ConvParams& p, const DeviceLimits& limits) {
  if (!p.transposed) return "is for conv_transpose2d, not for conv2d";
  if (p.groups != 1) return "groups must be 1";
  if (p.stride[0] != 2 || p.stride[1] != 2) return "stride must be 2";
  if (p.dilation[0] != 1 || p.dilation[1] != 1) return "dilation must be 1";
  for (int axis = 2; axis < 4; ++axis)
    if (p.weight.size[axis] < 2 || p.weight.size[axis] > 4) return "kernel must be 2 to 4 rows and columns";
  if (p.output.dtype == DType::kFloat64) return "has no float64 form";
  if (p.output.dtype == DType::kBFloat16 && limits.compute_capability < 80)
    return "bfloat16 needs a GPU of compute capability 8.0 or later";
  if (!has_wide_pixels(p.input)) return "input must be channels_last, a multiple of 16 bytes per pixel";
  const Phases t = conv_transpose_phases(p);
  if (t.shared_bytes > static_cast<size_t>(limits.shared_bytes))
    return "needs more shared memory than this GPU has";
  if (p.output.size[0] * t.tiles_x * t.tiles_y * t.channel_blocks > kMostBlocks) return "image is too large";
  return nullptr;
}

double conv_transpose_phases_cost(const ConvParams& p, const DeviceLimits& limits) {
  const Phases t = conv_transpose_phases(p);
  const double products =
      static_cast<double>(p.output.size[0] * t.tiles_x * t.tiles_y * t.channel_blocks * t.chunks) *
      (Phases::kRows * Phases::kCols * Phases::kOutputs) * (t.kh * t.kw) *
      static_cast<double>(Phases::kPixelBytes / element_bytes(p.input.dtype));
  const double memory = memory_cost(traffic_bytes(p), limits);
  const double arithmetic =
      is_16_bit(p.input.dtype) ? tensor_cost(products, 0.35, limits) : multiply_cost(products, 0.5, limits);
  return memory > arithmetic ? memory : arithmetic;
}

int64_t conv_transpose_phases_workspace(const ConvParams& p, const DeviceLimits&) {
  const Phases t = conv_transpose_phases(p);
  return int64_t{Phases::kTapBytes} * t.kh * t.kw * t.chunks * t.channel_blocks;
}

}  // namespace denoise_ext::cuda
