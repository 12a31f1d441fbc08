// When the kernels for few output channels can run and what they cost (host code, no CUDA).
#include "conv_last.h"

#include "conv_conditions.h"

namespace denoise_ext::cuda {

ConvLastTensor conv_last_tensor(const ConvParams& p) {
  ConvLastTensor t{};
  t.channel_blocks = static_cast<int>(divide_up(p.input.size[1], 32));
  t.matrices = p.output.size[1] <= 2 ? 1 : 2;
  t.strips_x = divide_up(p.output.size[3], ConvLastTensor::kStrip);
  t.rows = p.output.size[0] * t.strips_x * p.output.size[2];
  // Two k-steps of 16 channels per block, 3 kernel rows, 8 bytes per lane and matrix; 32 pixels of
  // 8 * matrices sums, and 2 floats between pixels.
  t.shared_bytes =
      in_arena(static_cast<size_t>(t.channel_blocks) * 2 * 3 * 32 * 8 * static_cast<size_t>(t.matrices)) +
      in_arena(ConvLastTensor::kWarps * 32 * 4 * static_cast<size_t>(8 * t.matrices + 2));
  return t;
}

ConvLastFloat conv_last_float(const ConvParams& p) {
  ConvLastFloat t{};
  t.tiles_x = divide_up(p.output.size[3], ConvLastFloat::kCols);
  t.tiles_y = divide_up(p.output.size[2], ConvLastFloat::kRows);
  t.shared_bytes =
      in_arena(4 * (ConvLastFloat::kRows + 2) * (ConvLastFloat::kCols + 2) * ConvLastFloat::kPitch) +
      in_arena(4 * 9 * ConvLastFloat::kChannels * static_cast<size_t>(p.output.size[1]));
  return t;
}

const char* conv_last_cannot_run(const ConvParams& p, const DeviceLimits& limits) {
  if (p.transposed) return "is for conv2d, not for conv_transpose2d";
  if (p.groups != 1) return "groups must be 1";
  if (p.output.size[1] > kConvLastMaxChannels) return "is for 1 to 4 output channels";
  if (p.stride[0] != 1 || p.stride[1] != 1) return "stride must be 1";
  if (p.dilation[0] != 1 || p.dilation[1] != 1) return "dilation must be 1";
  if (p.weight.size[2] != 3 || p.weight.size[3] != 3) return "kernel must be 3 x 3";
  if (p.output.dtype == DType::kFloat64) return "has no float64 form";
  if (!has_wide_pixels(p.input)) return "input must be channels_last, a multiple of 16 bytes per pixel";
  size_t shared_bytes = 0;
  if (is_16_bit(p.output.dtype)) {
    if (p.output.dtype == DType::kBFloat16 && limits.compute_capability < 80)
      return "bfloat16 needs a GPU of compute capability 8.0 or later";
    constexpr int64_t kLargest = int64_t{1} << 30;  // rows, columns and padding are counted in int
    for (int axis = 0; axis < 2; ++axis)
      if (p.input.size[2 + axis] > kLargest || p.output.size[2 + axis] > kLargest)
        return "image is too large";
    shared_bytes = conv_last_tensor(p).shared_bytes;
  } else {
    const ConvLastFloat t = conv_last_float(p);
    if (p.output.size[0] * t.tiles_x * t.tiles_y > kMostBlocks) return "image is too large";
    shared_bytes = t.shared_bytes;
  }
  if (shared_bytes > static_cast<size_t>(limits.shared_bytes))
    return "so many input channels need more shared memory than this GPU has";
  return nullptr;
}

double conv_last_cost(const ConvParams& p, const DeviceLimits& limits) {
  const double memory = 1.1 * memory_cost(traffic_bytes(p), limits);  // rows and columns read twice
  double arithmetic = 0;
  if (is_16_bit(p.output.dtype)) {
    const ConvLastTensor t = conv_last_tensor(p);
    const double products = static_cast<double>(t.rows) * 32 * 32 * t.channel_blocks * 3 * 8 * t.matrices;
    arithmetic = tensor_cost(products, 0.4, limits);
  } else {
    const ConvLastFloat t = conv_last_float(p);
    const double outputs = static_cast<double>(p.output.size[0] * t.tiles_x * t.tiles_y) *
                           ConvLastFloat::kCols * ConvLastFloat::kRows *
                           static_cast<double>(p.output.size[1]);
    arithmetic = multiply_cost(outputs * 9 * static_cast<double>(p.input.size[1]), 0.5, limits);
  }
  return memory > arithmetic ? memory : arithmetic;
}

}  // namespace denoise_ext::cuda
