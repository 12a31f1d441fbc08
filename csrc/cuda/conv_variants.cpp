// The convolution kernels and how one is chosen (host code, no CUDA).
#include "conv_variants.h"

#include "conv_conditions.h"
#include "conv_depthwise.h"
#include "conv_first.h"
#include "conv_last.h"
#include "conv_rowring_plan.h"
#include "conv_transpose_phases.h"
#include "variants.h"

namespace denoise_ext::cuda {
namespace {

template <class Params>
const char* always(const Params&, const DeviceLimits&) {
  return nullptr;
}

// Microseconds for so many multiply-adds at one per clock in each of 128 lanes per multiprocessor at
// 1.5 GHz, of which a kernel without any reuse in registers reaches about an eighth.
double unblocked_cost(double products, const DeviceLimits& limits) {
  return products / (128.0 * limits.multiprocessors * 1500.0 / 8.0);
}

double direct_cost(const ConvParams& p, const DeviceLimits& limits) {
  const double outputs = static_cast<double>(p.output.size[0]) * static_cast<double>(p.output.size[1]) *
                         static_cast<double>(p.output.size[2]) * static_cast<double>(p.output.size[3]);
  double products = static_cast<double>(p.input.size[1] / p.groups) * static_cast<double>(p.weight.size[2]) *
                    static_cast<double>(p.weight.size[3]);
  if (p.transposed) products /= static_cast<double>(p.stride[0] * p.stride[1]);
  // Where there are few products the same bytes have to be moved as by any other kernel.
  const double memory = memory_cost(traffic_bytes(p), limits);
  const double arithmetic = unblocked_cost(outputs * products, limits);
  return memory > arithmetic ? memory : arithmetic;
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
    {"conv_direct", always<ConvParams>, direct_cost, nullptr, conv_direct_launch},
};

// A mask on the input has no say: it is there only if what would run without it can apply it.
const Variant<ConvParams>& chosen(ConvParams params, const DeviceLimits& limits) {
  params.input_mask = {};
  return choose(kConvVariants, params, limits);
}

}  // namespace

int conv(const ConvParams& params, const LaunchContext& context) {
  return chosen(params, context.limits).launch(params, context);
}

int64_t conv_workspace_bytes(const ConvParams& params, const DeviceLimits& limits) {
  const Variant<ConvParams>& variant = chosen(params, limits);
  return variant.workspace_bytes == nullptr ? 0 : variant.workspace_bytes(params, limits);
}

bool conv_masks_input(const ConvParams& params, const DeviceLimits& limits) {
  return chosen(params, limits).launch == conv_rowring_launch;
}

void conv_explain(const ConvParams& params, const DeviceLimits& limits, char* text, int bytes) {
  explain(kConvVariants, params, limits, text, bytes);
}

}  // namespace denoise_ext::cuda
