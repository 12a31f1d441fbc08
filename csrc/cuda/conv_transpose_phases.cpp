// When the kernels for transposed convolutions of stride 2 can run and what they cost (host code).
#include "conv_transpose_phases.h"

#include <algorithm>

#include "conv_conditions.h"

namespace denoise_ext::cuda {
namespace {

using Phases = ConvTransposePhases;

// Cells along an axis, from the one of output 0 to the one of the last output.
int64_t cells(const ConvParams& p, int axis) {
  return (p.output.size[2 + axis] - 1 + p.padding[axis]) / 2 - p.padding[axis] / 2 + 1;
}

int64_t all_tiles(const ConvParams& p, const Phases& t) {
  return p.output.size[0] * t.tiles_y * t.tiles_x;
}

}  // namespace

Phases conv_transpose_phases(const ConvParams& p, const DeviceLimits& limits) {
  // Of each block's shared memory the system takes 1 KiB.
  constexpr size_t kReserved = 1024;
  Phases t{};
  t.kh = static_cast<int>(p.weight.size[2]);
  t.kw = static_cast<int>(p.weight.size[3]);
  t.chunks = static_cast<int>(divide_up(p.input.size[1] * element_bytes(p.input.dtype), Phases::kPixelBytes));
  t.channel_blocks = static_cast<int>(divide_up(p.output.size[1], Phases::kOutputs));
  t.top = static_cast<int>(p.padding[0]);
  t.left = static_cast<int>(p.padding[1]);
  t.first_row = t.top / 2;
  t.first_col = t.left / 2;
  t.tiles_x = static_cast<int>(divide_up(cells(p, 1), Phases::kCols));
  t.tiles_y = static_cast<int>(divide_up(cells(p, 0), Phases::kRows));
  const size_t chunk = static_cast<size_t>(t.kh * t.kw) * Phases::kTapBytes;
  const size_t terms = 2 * in_arena(4 * Phases::kOutputs);
  const size_t resident =
      in_arena(static_cast<size_t>(t.chunks) * chunk) + in_arena(2 * Phases::kTileBytes) + terms;
  const size_t whole = static_cast<size_t>(limits.shared_bytes) + kReserved;
  t.resident = is_16_bit(p.input.dtype) && 2 * (resident + kReserved) <= whole;
  t.shared_bytes = t.resident ? resident : in_arena(chunk) + in_arena(Phases::kTileBytes) + terms;
  const int64_t at_once = std::max<int64_t>(1, 2 * int64_t{limits.multiprocessors} / t.channel_blocks);
  const int64_t tiles = all_tiles(p, t), step = t.resident ? std::min(tiles, at_once) : tiles;
  t.blocks = step * t.channel_blocks;
  t.step_along = static_cast<int>(step % t.tiles_x);
  t.step_down = static_cast<int>(step / t.tiles_x % t.tiles_y);
  t.step_images = static_cast<int>(step / t.tiles_x / t.tiles_y);
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
  constexpr int64_t kLimit = int64_t{1} << 29;
  for (int axis = 0; axis < 4; ++axis)
    if (p.input.size[axis] >= kLimit || p.output.size[axis] >= kLimit || p.padding[axis / 2] >= kLimit)
      return "takes images, channels and padding below 2^29 only";
  const Phases t = conv_transpose_phases(p, limits);
  if (t.shared_bytes > static_cast<size_t>(limits.shared_bytes))
    return "needs more shared memory than this GPU has";
  if (all_tiles(p, t) * t.channel_blocks > kMostBlocks) return "image is too large";
  return nullptr;
}

double conv_transpose_phases_cost(const ConvParams& p, const DeviceLimits& limits) {
  const Phases t = conv_transpose_phases(p, limits);
  const double products = static_cast<double>(all_tiles(p, t) * t.channel_blocks * t.chunks) *
                          (Phases::kRows * Phases::kCols * Phases::kOutputs) * (t.kh * t.kw) *
                          static_cast<double>(Phases::kPixelBytes / element_bytes(p.input.dtype));
  const double memory = memory_cost(traffic_bytes(p), limits);
  // Where weights come anew with each tile, nothing is multiplied until they are there.
  const double share = t.resident ? 0.8 : 0.35;
  const double arithmetic =
      is_16_bit(p.input.dtype) ? tensor_cost(products, share, limits) : multiply_cost(products, 0.5, limits);
  return memory > arithmetic ? memory : arithmetic;
}

int64_t conv_transpose_phases_workspace(const ConvParams& p, const DeviceLimits& limits) {
  const Phases t = conv_transpose_phases(p, limits);
  return int64_t{Phases::kTapBytes} * t.kh * t.kw * t.chunks * t.channel_blocks;
}

}  // namespace denoise_ext::cuda
