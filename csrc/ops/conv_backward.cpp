// torch.ops.denoise_ext.conv2d_backward and conv_transpose2d_backward.
//
// Both are three steps: the activation's gradient (with the sums for bias and PReLU), the other
// convolution with the same weight for the input, and the weight's gradient, in which the two
// operators differ only in which tensor is the coarse one.
#include <algorithm>

#include "../cpu/conv_backward.h"
#include "../cpu/conv_plan.h"
#include "conv.h"

namespace denoise_ext::ops {
namespace {

struct ActivationGradients {
  Tensor preactivation;  // the gradient itself where there is no activation
  Tensor bias, prelu_weight;
};

Tensor from_sums(const std::vector<double>& sums, int64_t size, const Tensor& like) {
  const std::array<int64_t, 1> sizes{size};
  const std::array<int64_t, 1> sum_sizes{static_cast<int64_t>(sums.size())};
  Tensor doubles =
      torch::stable::empty({sum_sizes.data(), 1}, ScalarType::Double, std::nullopt, like.device());
  std::copy(sums.begin(), sums.end(), static_cast<double*>(doubles.data_ptr()));
  Tensor result = torch::stable::new_empty(like, {sizes.data(), 1});
  torch::stable::copy_(result, doubles);
  return result;
}

ActivationGradients activation_gradients(const char* op, const Tensor& grad_output,
                                         const std::optional<Tensor>& saved,
                                         const std::optional<Tensor>& prelu_weight,
                                         const std::string& activation, double negative_slope, bool need_bias,
                                         bool need_prelu) {
  ActivationGradParams params{};
  params.activation = parse_activation(activation, op);
  params.negative_slope = negative_slope;
  const bool identity = params.activation == Activation::kNone;
  const bool prelu = params.activation == Activation::kPrelu;
  STD_TORCH_CHECK(identity || saved.has_value(), op, ": saved is needed with activation '", activation, "'");
  STD_TORCH_CHECK(prelu == prelu_weight.has_value(), op,
                  ": prelu_weight is needed with activation='prelu' and only there");
  const int64_t channels = grad_output.size(1);
  params.grad_output = view4(grad_output, op, "grad_output");
  params.prelu_weight = view1(prelu_weight, op, "prelu_weight");
  if (prelu) {
    check_same_dtype(*prelu_weight, grad_output, op, "prelu_weight");
    STD_TORCH_CHECK(params.prelu_weight.size == 1 || params.prelu_weight.size == channels, op,
                    ": prelu_weight must have 1 or ", channels, " elements, got ", params.prelu_weight.size);
  }
  ActivationGradients result{grad_output, empty_gradient(grad_output), empty_gradient(grad_output)};
  if (!identity) {
    check_same_dtype(*saved, grad_output, op, "saved");
    check_sizes(*saved, {grad_output.size(0), channels, grad_output.size(2), grad_output.size(3)}, op,
                "saved");
    params.saved = view4(*saved, op, "saved");
    result.preactivation =
        empty4(grad_output, {grad_output.size(0), channels, grad_output.size(2), grad_output.size(3)},
               is_channels_last(*saved));
    params.grad_input = view4(result.preactivation, op, "grad_preactivation");
  }
  need_prelu = need_prelu && prelu;
  std::vector<double> bias_sums(static_cast<size_t>(channels)), prelu_sums(static_cast<size_t>(channels));
  params.grad_bias = need_bias ? bias_sums.data() : nullptr;
  params.grad_prelu = need_prelu ? prelu_sums.data() : nullptr;
  if (grad_output.numel() > 0 && (!identity || need_bias)) cpu::run_activation_grad(params, torch_threads());
  if (need_bias) result.bias = from_sums(bias_sums, channels, grad_output);
  if (need_prelu) {
    const int64_t size = params.prelu_weight.size;
    if (size == 1 && channels != 1) {
      for (int64_t c = 1; c < channels; ++c) prelu_sums[0] += prelu_sums[static_cast<size_t>(c)];
      prelu_sums.resize(1);
    }
    result.prelu_weight = from_sums(prelu_sums, size, grad_output);
  }
  return result;
}

Tensor input_gradient(const ConvArguments& arguments, const Tensor& grad, const Tensor& input,
                      const Tensor& weight) {
  const bool channels_last = is_channels_last(input) || is_channels_last(weight);
  Tensor result = empty4(input, {input.size(0), input.size(1), input.size(2), input.size(3)}, channels_last);
  ConvParams params = conv_params(arguments, grad, weight, result);
  params.transposed = !arguments.transposed;
  if (result.numel() > 0) cpu::run_conv(params, torch_threads());
  return result;
}

Tensor weight_gradient(const ConvArguments& arguments, const Tensor& grad, const Tensor& input,
                       const Tensor& weight) {
  Tensor result = empty4(weight, {weight.size(0), weight.size(1), weight.size(2), weight.size(3)},
                         is_channels_last(weight));
  ConvWeightGradParams params{};
  params.coarse = view4(arguments.transposed ? input : grad, arguments.op, "input");
  params.fine = view4(arguments.transposed ? grad : input, arguments.op, "input");
  params.grad_weight = view4(result, arguments.op, "grad_weight");
  for (size_t i = 0; i < 2; ++i) {
    params.stride[i] = arguments.stride[i];
    params.padding[i] = arguments.padding[i];
    params.dilation[i] = arguments.dilation[i];
  }
  params.groups = arguments.groups;
  if (grad.numel() == 0 || input.numel() == 0) {
    torch::stable::zero_(result);
  } else {
    cpu::run_conv_weight_grad(params, torch_threads());
  }
  return result;
}

struct ConvGradients {
  Tensor input, weight, bias, prelu_weight, preactivation;
};

ConvGradients conv_gradients(const ConvArguments& arguments, const Tensor& grad_output, const Tensor& input,
                             const Tensor& weight, const std::optional<Tensor>& saved,
                             const std::optional<Tensor>& prelu_weight, const std::string& activation,
                             double negative_slope, const std::vector<bool>& output_mask) {
  check_conv_arguments(arguments, input, weight);
  const auto sizes = conv_output_sizes(arguments, input, weight);
  check_same_dtype(grad_output, input, arguments.op, "grad_output");
  check_sizes(grad_output, {sizes.begin(), sizes.end()}, arguments.op, "grad_output");
  const bool need_preactivation = output_mask.size() > 4 && output_mask[4];
  const ActivationGradients activated =
      activation_gradients(arguments.op, grad_output, saved, prelu_weight, activation, negative_slope,
                           output_mask[2], output_mask[3]);
  const Tensor none = empty_gradient(input);
  return {output_mask[0] ? input_gradient(arguments, activated.preactivation, input, weight) : none,
          output_mask[1] ? weight_gradient(arguments, activated.preactivation, input, weight) : none,
          activated.bias, activated.prelu_weight,
          // An operator must not return its argument, so without an activation this is a copy.
          !need_preactivation    ? none
          : activation == "none" ? torch::stable::clone(grad_output)
                                 : activated.preactivation};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> conv2d_backward_cpu(
    const Tensor& grad_output, const Tensor& input, const Tensor& weight, const std::optional<Tensor>& saved,
    const std::optional<Tensor>& prelu_weight, const std::vector<int64_t>& stride,
    const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation, int64_t groups,
    const std::string& activation, double negative_slope, const std::vector<bool>& output_mask) {
  const ConvArguments arguments{"conv2d_backward", stride, padding, dilation, {}, groups, false};
  STD_TORCH_CHECK(output_mask.size() == 5, "conv2d_backward: output_mask must hold 5 booleans");
  ConvGradients g = conv_gradients(arguments, grad_output, input, weight, saved, prelu_weight, activation,
                                   negative_slope, output_mask);
  return {g.input, g.weight, g.bias, g.prelu_weight, g.preactivation};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> conv_transpose2d_backward_cpu(
    const Tensor& grad_output, const Tensor& input, const Tensor& weight, const std::optional<Tensor>& saved,
    const std::optional<Tensor>& prelu_weight, const std::vector<int64_t>& stride,
    const std::vector<int64_t>& padding, const std::vector<int64_t>& output_padding, int64_t groups,
    const std::vector<int64_t>& dilation, const std::string& activation, double negative_slope,
    const std::vector<bool>& output_mask) {
  const ConvArguments arguments{
      "conv_transpose2d_backward", stride, padding, dilation, output_padding, groups, true};
  STD_TORCH_CHECK(output_mask.size() == 4, "conv_transpose2d_backward: output_mask must hold 4 booleans");
  ConvGradients g = conv_gradients(arguments, grad_output, input, weight, saved, prelu_weight, activation,
                                   negative_slope, output_mask);
  return {g.input, g.weight, g.bias, g.prelu_weight};
}

}  // namespace
}  // namespace denoise_ext::ops

STABLE_TORCH_LIBRARY_FRAGMENT(denoise_ext, m) {
  m.def(
      "conv2d_backward(Tensor grad_output, Tensor input, Tensor weight, Tensor? saved, Tensor? prelu_weight, "
      "int[2] stride, int[2] padding, int[2] dilation, int groups, str activation, float negative_slope, "
      "bool[5] output_mask) -> (Tensor grad_input, Tensor grad_weight, Tensor grad_bias, "
      "Tensor grad_prelu_weight, Tensor grad_preactivation)");
  m.def(
      "conv_transpose2d_backward(Tensor grad_output, Tensor input, Tensor weight, Tensor? saved, "
      "Tensor? prelu_weight, int[2] stride, int[2] padding, int[2] output_padding, int groups, "
      "int[2] dilation, str activation, float negative_slope, bool[4] output_mask) -> "
      "(Tensor grad_input, Tensor grad_weight, Tensor grad_bias, Tensor grad_prelu_weight)");
}

STABLE_TORCH_LIBRARY_IMPL(denoise_ext, CPU, m) {
  m.impl("conv2d_backward", TORCH_BOX(&denoise_ext::ops::conv2d_backward_cpu));
  m.impl("conv_transpose2d_backward", TORCH_BOX(&denoise_ext::ops::conv_transpose2d_backward_cpu));
}
