// torch.ops.denoise_ext.conv_transpose2d: transposed convolution + bias + activation, by phases; and
// conv_transpose2d_out, into a given tensor, with a residual and a packed weight, for a caller that owns its
// memory.
#include "../cpu/conv.h"
#include "conv.h"
#include "conv2d_out.h"
#include "device.h"
#include "register.h"
#include "results.h"

namespace denoise_ext::ops {
namespace {

template <class Device>
Tensor conv_transpose2d(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                        const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                        const std::vector<int64_t>& output_padding, int64_t groups,
                        const std::vector<int64_t>& dilation, const StringArgument& activation,
                        double negative_slope, const std::optional<Tensor>& prelu_weight,
                        const StringArgument& precision) {
  constexpr const char* kOp = "conv_transpose2d";
  const Precision allowed = Device::precision(parse_precision(precision, kOp), input);
  const ConvArguments arguments{kOp, stride, padding, dilation, output_padding, groups, true, allowed};
  check_conv_arguments(arguments, input, weight);
  const auto sizes = conv_output_sizes(arguments, input, weight);
  Tensor output = empty4(input, sizes, is_channels_last(input) || is_channels_last(weight));
  typename Device::ConvParams params{conv_params(arguments, input, weight, output), {}};
  set_epilogue(params, kOp, bias, activation, negative_slope, prelu_weight, input);
  if (output.numel() > 0) Device::compute(params, input, kOp);
  return output;
}

template <class Device>
void conv_transpose2d_out(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                          const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                          const std::vector<int64_t>& output_padding, int64_t groups,
                          const std::vector<int64_t>& dilation, const StringArgument& activation,
                          double negative_slope, const std::optional<Tensor>& prelu_weight,
                          const std::optional<Tensor>& residual, const StringArgument& residual_position,
                          const StringArgument& precision, const Tensor& out,
                          const std::optional<Tensor>& packed_weight) {
  constexpr const char* kOp = "conv_transpose2d_out";
  const Precision allowed = Device::precision(parse_precision(precision, kOp), input);
  const ConvArguments arguments{kOp, stride, padding, dilation, output_padding, groups, true, allowed};
  check_conv_arguments(arguments, input, weight);
  const auto sizes = conv_output_sizes(arguments, input, weight);
  check_same_dtype(out, input, kOp, "out");
  check_sizes(out, {sizes.begin(), sizes.end()}, kOp, "out");
  typename Device::ConvParams params{conv_params(arguments, input, weight, out), {}};
  set_epilogue(params, kOp, bias, activation, negative_slope, prelu_weight, input);
  set_residual(params, kOp, residual, residual_position, input);
  STD_TORCH_CHECK(!Device::kCuda || params.residual.data == nullptr, kOp,
                  ": residual must be None on CUDA, whose kernels for transposed convolutions add none");
  if constexpr (Device::kCuda) {
    STD_TORCH_CHECK(
        !packed_weight.has_value(), kOp,
        ": packed_weight must be None on CUDA, whose kernels read none for transposed convolutions");
  } else if (packed_weight.has_value()) {
    params.packed_weight = view1(packed_weight, kOp, "packed_weight");
    check_cpu(params, kOp);
    check_no_overlap({"out", params.output}, {named("packed_weight", params.packed_weight)}, kOp);
  }
  check_result(params, kOp, "out", params.output);
  check_no_gradients({{"out", out},
                      {"input", input},
                      {"weight", weight},
                      {"bias", bias},
                      {"prelu_weight", prelu_weight},
                      {"residual", residual}},
                     kOp);
  count_change(out);
  if (out.numel() > 0) Device::compute(params, input, kOp);
}

}  // namespace
}  // namespace denoise_ext::ops

DENOISE_EXT_SCHEMAS(m) {
  m.def(
      "conv_transpose2d(Tensor input, Tensor weight, Tensor? bias, int[2] stride, int[2] padding, "
      "int[2] output_padding, int groups, int[2] dilation, str activation, float negative_slope, "
      "Tensor? prelu_weight, str precision='default') -> Tensor");
  m.def(
      "conv_transpose2d_out(Tensor input, Tensor weight, Tensor? bias, int[2] stride, int[2] padding, "
      "int[2] output_padding, int groups, int[2] dilation, str activation, float negative_slope, "
      "Tensor? prelu_weight, Tensor? residual, str residual_position, str precision, Tensor(a!) out, "
      "Tensor? packed_weight=None) -> ()");
}

DENOISE_EXT_REGISTER(conv_transpose2d)
DENOISE_EXT_REGISTER(conv_transpose2d_out)
