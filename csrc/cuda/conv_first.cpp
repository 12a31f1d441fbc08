// When the kernels for few input channels can run and what they cost (host code, no CUDA).
#include "conv_first.h"

#include "conv_conditions.h"

namespace denoise_ext::cuda {
namespace {

constexpr int kLargestKernel = 7;

int taps(const ConvParams& p) {
  return static_cast<int>(p.weight.size[2] * p.weight.size[3]);
}

}  // namespace

ConvFirstTensor conv_first_tensor(const ConvParams& p) {
  ConvFirstTensor t{};
  t.channel_pairs = p.input.size[1] <= 2 ? 1 : 2;
  t.steps = (taps(p) * t.channel_pairs + 7) / 8;
  t.channel_blocks = static_cast<int>(divide_up(p.output.size[1], 32));
  t.in_rows = ConvFirstTensor::kRows + static_cast<int>(p.weight.size[2]) - 1;
  t.in_cols = ConvFirstTensor::kCols + static_cast<int>(p.weight.size[3]) - 1;
  t.tiles_x = divide_up(p.output.size[3], ConvFirstTensor::kCols);
  t.tiles_y = divide_up(p.output.size[2], ConvFirstTensor::kRows);
  t.tiles = p.output.size[0] * t.tiles_x * t.tiles_y;
  const auto channels = static_cast<size_t>(t.channel_blocks) * 32;
  t.shared_bytes = in_arena(channels * static_cast<size_t>(t.steps) * 32) + 2 * in_arena(4 * channels) +
                   in_arena(4 * static_cast<size_t>(t.in_rows * t.in_cols * t.channel_pairs)) +
                   in_arena(4 * static_cast<size_t>(t.steps) * 8);
  return t;
}

ConvFirstFloat conv_first_float(const ConvParams& p) {
  ConvFirstFloat t{};
  const int64_t vectors = divide_up(p.output.size[1], 4);
  t.vectors = vectors <= 2                                               ? 2
              : vectors <= 4                                             ? 4
              : divide_up(vectors, 16) * 16 <= divide_up(vectors, 8) * 8 ? 16
                                                                         : 8;
  t.in_rows = ConvFirstFloat::kRows + static_cast<int>(p.weight.size[2]) - 1;
  t.in_pitch = ConvFirstFloat::kCols + 4;  // 4 more columns: kernels up to 5 wide
  t.tiles_x = divide_up(p.output.size[3], ConvFirstFloat::kCols);
  t.tiles_y = divide_up(p.output.size[2], ConvFirstFloat::kRows);
  t.channel_blocks = divide_up(vectors, t.vectors);
  const auto channels = static_cast<size_t>(t.vectors) * 4;
  const auto inputs = static_cast<size_t>(p.input.size[1]);
  t.shared_bytes = in_arena(4 * inputs * static_cast<size_t>(t.in_rows * t.in_pitch)) +
                   in_arena(4 * inputs * static_cast<size_t>(taps(p)) * channels) +
                   2 * in_arena(4 * channels);
  return t;
}

const char* conv_first_cannot_run(const ConvParams& p, const DeviceLimits& limits) {
  if (p.transposed) return "is for conv2d, not for conv_transpose2d";
  if (p.groups != 1) return "groups must be 1";
  if (p.input.size[1] > kConvFirstMaxChannels) return "is for 1 to 4 input channels";
  if (p.stride[0] != 1 || p.stride[1] != 1) return "stride must be 1";
  if (p.dilation[0] != 1 || p.dilation[1] != 1) return "dilation must be 1";
  if (p.weight.size[2] > kLargestKernel || p.weight.size[3] > kLargestKernel)
    return "kernel must be at most 7 x 7";
  size_t shared_bytes = 0;
  if (is_16_bit(p.output.dtype)) {
    if (p.output.dtype == DType::kBFloat16 && limits.compute_capability < 80)
      return "bfloat16 needs a GPU of compute capability 8.0 or later";
    shared_bytes = conv_first_tensor(p).shared_bytes;
  } else {
    if (p.output.dtype != DType::kFloat32) return "has no float64 form";
    if (p.weight.size[3] != 3 && p.weight.size[3] != 5) return "float32 kernels must be 3 or 5 columns wide";
    const ConvFirstFloat t = conv_first_float(p);
    if (p.output.size[0] * t.tiles_x * t.tiles_y * t.channel_blocks > kMostBlocks)
      return "image is too large";
    shared_bytes = t.shared_bytes;
  }
  if (shared_bytes > static_cast<size_t>(limits.shared_bytes))
    return "so many output channels need more shared memory than this GPU has";
  return nullptr;
}

double conv_first_cost(const ConvParams& p, const DeviceLimits& limits) {
  // Output that is not written 16 bytes at a time goes through the caches in pieces of 16 bytes per
  // 8 pixels of a plane, or of single floats.
  const double detour = wide_output(p) ? 1 : is_16_bit(p.output.dtype) ? 2 : 4;
  const double memory = detour * memory_cost(traffic_bytes(p), limits);
  double arithmetic = 0;
  if (is_16_bit(p.output.dtype)) {
    const ConvFirstTensor t = conv_first_tensor(p);
    const double outputs = static_cast<double>(t.tiles) * ConvFirstTensor::kRows * ConvFirstTensor::kCols *
                           t.channel_blocks * 32;
    arithmetic = tensor_cost(outputs * t.steps * 16, 0.4, limits);
  } else {
    const ConvFirstFloat t = conv_first_float(p);
    const double outputs =
        static_cast<double>(p.output.size[0] * t.tiles_x * t.tiles_y * t.channel_blocks * t.vectors) * 4 *
        ConvFirstFloat::kRows * ConvFirstFloat::kCols;
    arithmetic = multiply_cost(outputs * static_cast<double>(p.input.size[1]) * taps(p), 0.6, limits);
  }
  return memory > arithmetic ? memory : arithmetic;
}

}  // namespace denoise_ext::cuda
