// When the depthwise kernels can run and what they cost (host code, no CUDA).
#include "conv_depthwise.h"

#include "conv_conditions.h"

namespace denoise_ext::cuda {
namespace {

const char* not_depthwise(const ConvParams& p) {
  if (p.transposed) return "is for conv2d, not for conv_transpose2d";
  if (p.groups == 1 || p.groups != p.input.size[1] || p.groups != p.output.size[1])
    return "is for depthwise convolutions: groups must equal the input and output channels";
  if (p.output.dtype == DType::kFloat64) return "has no float64 form";
  if (p.stride[0] != p.stride[1] || p.stride[0] > 2) return "stride must be 1 or 2, the same for both axes";
  if (p.dilation[0] != 1 || p.dilation[1] != 1) return "dilation must be 1";
  if (p.weight.size[2] > kDepthwiseMaxKernel || p.weight.size[3] > kDepthwiseMaxKernel)
    return "kernel must be at most 7 x 7";
  return nullptr;
}

double products(const ConvParams& p, double outputs) {
  return outputs * static_cast<double>(p.weight.size[2] * p.weight.size[3]);
}

double larger(double a, double b) {
  return a > b ? a : b;
}

}  // namespace

DepthwiseRows depthwise_rows(const ConvParams& p) {
  const int lanes = static_cast<int>(16 / element_bytes(p.output.dtype));
  const int64_t vectors = p.output.size[1] / lanes;
  const int stride = static_cast<int>(p.stride[0]);
  const int kh = static_cast<int>(p.weight.size[2]), kw = static_cast<int>(p.weight.size[3]);
  DepthwiseRows t{};
  // The widest that leaves few lanes without a channel.
  t.vectors_log2 = vectors <= 1   ? 0
                   : vectors == 2 ? 1
                   : vectors <= 4 ? 2
                                  : (divide_up(vectors, 8) * 8 <= divide_up(vectors, 4) * 4 ? 3 : 2);
  t.vectors = 1 << t.vectors_log2;
  t.rows = stride == 1 ? 8 : 4;
  t.cols = DepthwiseRows::kPixels * 32 / t.vectors;
  t.in_rows = (t.rows - 1) * stride + kh;
  t.in_cols = (t.cols - 1) * stride + kw;
  t.slots = t.in_cols + (t.in_cols - 1) / (DepthwiseRows::kPixels * stride);
  t.tiles_x = divide_up(p.output.size[3], t.cols);
  t.tiles_y = divide_up(p.output.size[2], t.rows);
  t.channel_blocks = divide_up(vectors, t.vectors);
  const size_t channels = static_cast<size_t>(t.vectors * lanes);
  t.shared_bytes = in_arena(16 * static_cast<size_t>(t.in_rows * t.slots * t.vectors)) +
                   in_arena(4 * channels * static_cast<size_t>(kh * kw)) + 2 * in_arena(4 * channels);
  return t;
}

DepthwisePlanes depthwise_planes(const ConvParams& p) {
  const int stride = static_cast<int>(p.stride[0]);
  DepthwisePlanes t{};
  t.in_rows = (DepthwisePlanes::kRows - 1) * stride + static_cast<int>(p.weight.size[2]);
  t.in_cols = (DepthwisePlanes::kCols - 1) * stride + static_cast<int>(p.weight.size[3]);
  t.tiles_x = divide_up(p.output.size[3], DepthwisePlanes::kCols);
  t.tiles_y = divide_up(p.output.size[2], DepthwisePlanes::kRows);
  t.shared_bytes = in_arena(4 * static_cast<size_t>(t.in_rows * t.in_cols)) +
                   in_arena(4 * static_cast<size_t>(p.weight.size[2] * p.weight.size[3])) +
                   in_arena(4 * DepthwisePlanes::kRows * DepthwisePlanes::kCols);
  return t;
}

const char* conv_depthwise_rows_cannot_run(const ConvParams& p, const DeviceLimits& limits) {
  if (const char* reason = not_depthwise(p)) return reason;
  if (!has_wide_pixels(p.input)) return "input must be channels_last, a multiple of 16 bytes per pixel";
  if (!wide_output(p)) return "output and residual must be channels_last, a multiple of 16 bytes per pixel";
  const DepthwiseRows t = depthwise_rows(p);
  if (t.shared_bytes > static_cast<size_t>(limits.shared_bytes))
    return "the kernel size and stride need more shared memory than this GPU has";
  if (p.output.size[0] * t.tiles_x * t.tiles_y * t.channel_blocks > kMostBlocks) return "image is too large";
  return nullptr;
}

double conv_depthwise_rows_cost(const ConvParams& p, const DeviceLimits& limits) {
  const DepthwiseRows t = depthwise_rows(p);
  const double outputs = static_cast<double>(p.output.size[0] * t.tiles_x * t.tiles_y * t.channel_blocks) *
                         t.rows * t.cols *
                         static_cast<double>(t.vectors * (16 / element_bytes(p.output.dtype)));
  // Besides a multiply-add per product there are conversions and shared memory accesses, about as many.
  return larger(memory_cost(traffic_bytes(p), limits), multiply_cost(products(p, outputs), 0.5, limits));
}

const char* conv_depthwise_planes_cannot_run(const ConvParams& p, const DeviceLimits& limits) {
  if (const char* reason = not_depthwise(p)) return reason;
  if (p.weight.size[2] % 2 == 0 || p.weight.size[2] == 1) return "kernel must be 3, 5 or 7 rows high";
  if (p.input.stride[3] != 1 || p.output.stride[3] != 1)
    return "input and output must have their columns beside each other (contiguous)";
  const DepthwisePlanes t = depthwise_planes(p);
  if (t.shared_bytes > static_cast<size_t>(limits.shared_bytes))
    return "the kernel size and stride need more shared memory than this GPU has";
  if (p.output.size[0] * p.output.size[1] * t.tiles_x * t.tiles_y > kMostBlocks) return "image is too large";
  return nullptr;
}

double conv_depthwise_planes_cost(const ConvParams& p, const DeviceLimits& limits) {
  const DepthwisePlanes t = depthwise_planes(p);
  const double outputs = static_cast<double>(p.output.size[0] * p.output.size[1] * t.tiles_x * t.tiles_y) *
                         DepthwisePlanes::kRows * DepthwisePlanes::kCols;
  return larger(memory_cost(traffic_bytes(p), limits), multiply_cost(products(p, outputs), 0.4, limits));
}

}  // namespace denoise_ext::cuda
