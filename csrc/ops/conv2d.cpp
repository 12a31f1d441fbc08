// torch.ops.denoise_ext.conv2d: fused convolution + bias + residual + activation.
#include "../cpu/conv.h"
#include "conv.h"
#include "device.h"
#include "register.h"

namespace denoise_ext::ops {
namespace {

constexpr const char* kOp = "conv2d";

template <class Device>
Tensor conv2d(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
              const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
              const std::vector<int64_t>& dilation, int64_t groups, const StringArgument& activation,
              double negative_slope, const std::optional<Tensor>& prelu_weight,
              const std::optional<Tensor>& residual, const StringArgument& residual_position,
              const StringArgument& precision) {
  const Precision allowed = Device::precision(parse_precision(precision, kOp), input);
  const ConvArguments arguments{kOp, stride, padding, dilation, {}, groups, false, allowed};
  check_conv_arguments(arguments, input, weight);
  const auto sizes = conv_output_sizes(arguments, input, weight);
  Tensor output = empty4(input, sizes, is_channels_last(input) || is_channels_last(weight));
  typename Device::ConvParams params{conv_params(arguments, input, weight, output), {}};
  set_epilogue(params, kOp, bias, activation, negative_slope, prelu_weight, input);
  set_residual(params, kOp, residual, residual_position, input);
  if (output.numel() > 0) Device::compute(params, input, kOp);
  return output;
}

}  // namespace
}  // namespace denoise_ext::ops

DENOISE_EXT_SCHEMAS(m) {
  m.def(
      "conv2d(Tensor input, Tensor weight, Tensor? bias, int[2] stride, int[2] padding, int[2] dilation, "
      "int groups, str activation, float negative_slope, Tensor? prelu_weight, Tensor? residual, "
      "str residual_position, str precision='default') -> Tensor");
}

DENOISE_EXT_REGISTER(conv2d)
