// The convolution kernels and how one is chosen (host code, no CUDA).
#include "conv_variants.h"

#include <algorithm>

#include "conv_conditions.h"
#include "conv_depthwise.h"
#include "conv_first.h"
#include "conv_gemm.h"
#include "conv_last.h"
#include "conv_parts.h"
#include "conv_rowring_plan.h"
#include "conv_transpose_phases.h"
#include "variants.h"

namespace denoise_ext::cuda {
namespace {

// No load is shared between threads, so the caches decide how near the estimate is. It is put so many times
// higher: a kernel that shares loads is taken where the two are near.
constexpr double kDirectMargin = 1.75;

double direct_cost(const ConvParams& p, const DeviceLimits& limits) {
  const double outputs = static_cast<double>(p.output.size[0]) * static_cast<double>(p.output.size[1]) *
                         static_cast<double>(p.output.size[2]) * static_cast<double>(p.output.size[3]);
  double products = static_cast<double>(p.input.size[1] / p.groups) * static_cast<double>(p.weight.size[2]) *
                    static_cast<double>(p.weight.size[3]);
  if (p.transposed) products /= static_cast<double>(p.stride[0] * p.stride[1]);
  // Where there are few products the same bytes have to be moved as by any other kernel.
  const double memory = memory_cost(traffic_bytes(p), limits);
  // Every factor is loaded anew: that limits it to a thirteenth of the multiply-adds. Where neighbouring
  // threads have neighbouring channels, each load of theirs of a weight touches a line of its own.
  const bool scattered = p.output.stride[1] == 1 && p.output.size[1] > 1 && p.input.size[1] / p.groups > 1;
  const double arithmetic = multiply_cost(outputs * products, 1.0 / (scattered ? 75 : 13), limits);
  // A thread waits for the loads of every 16 products, about 0.4 us, before it asks for the next.
  const double waiting = products / 16 * 0.4;
  return kDirectMargin * std::max({memory, arithmetic, waiting});
}

const Variant<ConvParams> kConvVariants[] = {
    {"conv_depthwise_rows", conv_depthwise_rows_cannot_run, conv_depthwise_rows_cost, nullptr,
     conv_depthwise_rows_launch},
    {"conv_depthwise_planes", conv_depthwise_planes_cannot_run, conv_depthwise_planes_cost, nullptr,
     conv_depthwise_planes_launch},
    {"conv_first", conv_first_cannot_run, conv_first_cost, nullptr, conv_first_launch},
    {"conv_last", conv_last_cannot_run, conv_last_cost, nullptr, conv_last_launch},
    {"conv_transpose_phases", conv_transpose_phases_cannot_run, conv_transpose_phases_cost,
     conv_transpose_phases_workspace, conv_transpose_phases_launch},
    {"conv_rowring", row_ring_cannot_run, row_ring_cost, row_ring_workspace_bytes, conv_rowring_launch},
    {"conv_parts", conv_parts_cannot_run, conv_parts_cost, conv_parts_workspace, conv_parts_launch},
    {"conv_gemm_mma", conv_gemm_mma_cannot_run, conv_gemm_mma_cost, conv_gemm_mma_workspace,
     conv_gemm_mma_launch},
    {"conv_tiled", conv_tiled_cannot_run, conv_tiled_cost, conv_tiled_workspace, conv_tiled_launch},
    {"conv_direct", always<ConvParams>, direct_cost, nullptr, conv_direct_launch},
};

// A depthwise conv_transpose2d of stride 1, such as the gradient of a depthwise conv2d's input, is a
// depthwise conv2d with the taps in reverse order.
ConvParams as_conv2d(ConvParams p) {
  const bool depthwise = p.groups > 1 && p.groups == p.input.size[1] && p.groups == p.output.size[1];
  if (!p.transposed || !depthwise || p.stride[0] != 1 || p.stride[1] != 1) return p;
  ConvParams flipped = p;
  flipped.transposed = false;
  for (int axis = 0; axis < 2; ++axis) {
    const int64_t last = p.weight.size[2 + axis] - 1;
    flipped.padding[axis] = p.dilation[axis] * last - p.padding[axis];
    if (flipped.padding[axis] < 0) return p;
    flipped.weight.data = static_cast<char*>(flipped.weight.data) +
                          last * p.weight.stride[2 + axis] * element_bytes(p.weight.dtype);
    flipped.weight.stride[2 + axis] = -p.weight.stride[2 + axis];
  }
  return flipped;
}

// A mask on the input has no say: it is there only if what would run without it can apply it.
ConvParams unmasked(ConvParams params) {
  params.input_mask = {};
  return params;
}

const Variant<ConvParams>& chosen(const ConvParams& params, const DeviceLimits& limits) {
  return choose(kConvVariants, unmasked(params), limits);
}

}  // namespace

int run(const ConvParams& given, const LaunchContext& context) {
  const ConvParams params = as_conv2d(given);
  return chosen(params, context.limits).launch(params, context);
}

int64_t workspace_bytes(const ConvParams& given, const DeviceLimits& limits) {
  const ConvParams params = as_conv2d(given);
  const Variant<ConvParams>& variant = chosen(params, limits);
  return variant.workspace_bytes == nullptr ? 0 : variant.workspace_bytes(params, limits);
}

bool conv_masks_input(const ConvParams& params, const DeviceLimits& limits) {
  return chosen(as_conv2d(params), limits).launch == conv_rowring_launch;
}

void explain(const ActivationGradParams& params, const DeviceLimits&, char* text, int bytes) {
  std::snprintf(text, static_cast<size_t>(bytes), "%s", explanation(params));
}

void explain(const ConvParams& params, const DeviceLimits& limits, char* text, int bytes) {
  explain(kConvVariants, unmasked(as_conv2d(params)), limits, text, bytes);
}

}  // namespace denoise_ext::cuda
