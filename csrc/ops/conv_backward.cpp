// torch.ops.denoise_ext.conv2d_backward and conv_transpose2d_backward.
//
// Both are three steps: the activation's gradient (with the sums for bias and PReLU), the other
// convolution with the same weight for the input, and the weight's gradient, in which the two
// operators differ only in which tensor is the coarse one. Where the CUDA kernels of the latter two can
// read grad_output through the activation's mask, the first step and its temporary tensor drop out.
#include "../cpu/conv_backward.h"
#include "../cpu/conv.h"
#include "conv.h"
#include "device.h"
#include "register.h"

namespace denoise_ext::ops {
namespace {

struct ActivationGradients {
  Tensor preactivation;  // the gradient itself where there is no activation
  Tensor bias, prelu_weight;
};

struct ActivationArguments {
  const std::optional<Tensor>& saved;
  const std::optional<Tensor>& prelu_weight;
  const std::string& activation;
  double negative_slope;
};

ActivationGradParams activation_grad_params(const char* op, const Tensor& grad_output,
                                            const ActivationArguments& a) {
  ActivationGradParams params{};
  params.activation = parse_activation(a.activation, op);
  params.negative_slope = a.negative_slope;
  STD_TORCH_CHECK(has_gradient_by_output(params.activation), op,
                  ": activation must be one of none, relu, leaky_relu, prelu, sigmoid, tanh, got '",
                  a.activation, "', whose gradient follows from its input alone");
  STD_TORCH_CHECK(params.activation == Activation::kNone || a.saved.has_value(), op,
                  ": saved is needed with activation '", a.activation, "'");
  STD_TORCH_CHECK((params.activation == Activation::kPrelu) == a.prelu_weight.has_value(), op,
                  ": prelu_weight is needed with activation='prelu' and only there");
  params.grad_output = view4(grad_output, op, "grad_output");
  params.prelu_weight = view1(a.prelu_weight, op, "prelu_weight");
  const int64_t* size = params.grad_output.size;
  if (a.prelu_weight.has_value()) {
    check_same_dtype(*a.prelu_weight, grad_output, op, "prelu_weight");
    STD_TORCH_CHECK(params.prelu_weight.size == 1 || params.prelu_weight.size == size[1], op,
                    ": prelu_weight must have 1 or ", size[1], " elements, got ", params.prelu_weight.size);
  }
  if (params.activation != Activation::kNone) {
    check_same_dtype(*a.saved, grad_output, op, "saved");
    check_sizes(*a.saved, {size[0], size[1], size[2], size[3]}, op, "saved");
    params.saved = view4(*a.saved, op, "saved");
  }
  return params;
}

// A row of `sums` (2, K), in double, as a gradient of `size` elements (1: the sum of all channels).
Tensor gradient_from_sums(const Tensor& sums, int64_t row, int64_t size, const Tensor& like) {
  Tensor values = torch::stable::select(sums, 0, row);
  if (size != sums.size(1)) values = torch::stable::sum(values);
  const std::array<int64_t, 1> sizes{size};
  Tensor result = torch::stable::new_empty(like, {sizes.data(), 1});
  torch::stable::copy_(result, values);
  return result;
}

template <class Device>
ActivationGradients activation_gradients(const char* op, const Tensor& grad_output, const Tensor& saved,
                                         ActivationGradParams params, bool need_preactivation, bool need_bias,
                                         bool need_prelu) {
  const int64_t* size = params.grad_output.size;
  need_prelu = need_prelu && params.activation == Activation::kPrelu;
  ActivationGradients result{grad_output, empty_gradient(grad_output), empty_gradient(grad_output)};
  if (need_preactivation) {
    result.preactivation = empty4(grad_output, {size[0], size[1], size[2], size[3]}, is_channels_last(saved));
    params.grad_input = view4(result.preactivation, op, "grad_preactivation", Access::kWrite);
  }
  if (!need_preactivation && !need_bias && !need_prelu) return result;
  const std::array<int64_t, 2> sum_sizes{2, size[1]};
  Tensor sums = torch::stable::new_zeros(grad_output, {sum_sizes.data(), 2}, ScalarType::Double);
  if (need_bias || need_prelu) {
    const std::array<int64_t, 1> flat{2 * size[1]};
    const Tensor1 view = view1(torch::stable::view(sums, {flat.data(), 1}), op, "sums", Access::kUpdate);
    params.sums = static_cast<double*>(const_cast<void*>(view.data));
  }
  if (grad_output.numel() > 0) Device::compute(params, grad_output, op);
  if (need_bias) result.bias = gradient_from_sums(sums, 0, size[1], grad_output);
  if (need_prelu) result.prelu_weight = gradient_from_sums(sums, 1, params.prelu_weight.size, grad_output);
  return result;
}

struct ConvGradients {
  Tensor input, weight, bias, prelu_weight, preactivation;
};

// The gradient of the input as a convolution of `grad` into `result`.
ConvParams input_gradient_params(const ConvArguments& arguments, const Tensor& grad, const Tensor& weight,
                                 const Tensor& result) {
  ConvParams params = conv_params(arguments, grad, weight, result);
  params.transposed = !arguments.transposed;
  return params;
}

struct Wanted {
  bool input, weight, bias, prelu_weight, preactivation;
};

// How the steps share the work.
struct Division {
  ActivationMask mask;    // through which the gradients of input and weight read, or absent
  bool copies;            // the gradient of the preactivation is written out
  bool bias_with_weight;  // the step for the weight adds up the bias' gradient too
};

template <class Device>
bool masks_input([[maybe_unused]] const ConvParams& params, [[maybe_unused]] const Tensor& input,
                 [[maybe_unused]] const char* op) {
  if constexpr (Device::kCuda)
    return cuda::conv_masks_input(cuda::ConvParams{params, {}}, Device::limits(input, op));
  return false;
}

// CUDA's kernels for conv2d can read grad_output through a mask and have its sums at hand.
template <class Device>
Division divide(const ConvArguments& arguments, const ActivationGradParams& activation, const Wanted& wanted,
                const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                const Tensor& grad_input) {
  const bool identity = activation.activation == Activation::kNone;
  const bool able = Device::kCuda && !arguments.transposed;
  bool masked = able && !wanted.preactivation && is_mask(activation);
  if (masked && wanted.input)
    masked = masks_input<Device>(input_gradient_params(arguments, grad_output, weight, grad_input), input,
                                 arguments.op);
  Division division{};
  if (masked) division.mask = mask_of(activation);
  division.copies = !identity && !masked && (wanted.input || wanted.weight || wanted.preactivation);
  division.bias_with_weight = able && (identity || masked) && wanted.weight && wanted.bias &&
                              grad_output.numel() > 0 && input.numel() > 0;
  return division;
}

// Fills in `result.weight`, and `result.bias` if that is its part.
template <class Device>
void weight_gradient(const ConvArguments& arguments, const Tensor& grad, const Division& division,
                     const Tensor& input, const Tensor& weight, ConvGradients& result) {
  result.weight = empty4(weight, {weight.size(0), weight.size(1), weight.size(2), weight.size(3)},
                         is_channels_last(weight));
  if (grad.numel() == 0 || input.numel() == 0) {
    torch::stable::zero_(result.weight);
    return;
  }
  typename Device::ConvWeightGradParams params{};
  params.coarse = view4(arguments.transposed ? input : grad, arguments.op, "input");
  params.fine = view4(arguments.transposed ? grad : input, arguments.op, "input");
  params.grad_weight = view4(result.weight, arguments.op, "grad_weight", Access::kWrite);
  for (size_t i = 0; i < 2; ++i) {
    params.stride[i] = arguments.stride[i];
    params.padding[i] = arguments.padding[i];
    params.dilation[i] = arguments.dilation[i];
  }
  params.groups = arguments.groups;
  params.precision = arguments.precision;
  if constexpr (Device::kCuda) {
    params.coarse_mask = division.mask;
    if (division.bias_with_weight) {
      const std::array<int64_t, 1> sizes{params.coarse.size[1]};
      result.bias = torch::stable::new_empty(input, {sizes.data(), 1});
      params.grad_bias =
          const_cast<void*>(view1(result.bias, arguments.op, "grad_bias", Access::kWrite).data);
    }
  }
  explain_step("weight gradient");
  Device::compute(params, input, arguments.op);
}

// Why the activation's gradient takes no kernel. A kernel that it takes explains itself.
void explain_activation(bool identity, const Division& division) {
  Explanation* explanation = Explanation::current();
  if (explanation == nullptr) return;
  explain_step("activation gradient");
  if (identity) {
    explanation->add("none: there is no activation");
  } else if (division.mask.saved.data != nullptr) {
    explanation->add("none: the kernels below read grad_output through the activation's mask");
  }
}

template <class Device>
ConvGradients conv_gradients(const ConvArguments& arguments, const Tensor& grad_output, const Tensor& input,
                             const Tensor& weight, const std::optional<Tensor>& saved,
                             const std::optional<Tensor>& prelu_weight, const std::string& activation,
                             double negative_slope, const std::vector<bool>& output_mask) {
  check_conv_arguments(arguments, input, weight);
  const auto sizes = conv_output_sizes(arguments, input, weight);
  check_same_dtype(grad_output, input, arguments.op, "grad_output");
  check_sizes(grad_output, {sizes.begin(), sizes.end()}, arguments.op, "grad_output");
  const Wanted wanted{output_mask[0], output_mask[1], output_mask[2], output_mask[3],
                      output_mask.size() > 4 && output_mask[4]};
  const ActivationGradParams activation_params =
      activation_grad_params(arguments.op, grad_output, {saved, prelu_weight, activation, negative_slope});
  const bool identity = activation_params.activation == Activation::kNone;
  const Tensor none = empty_gradient(input);
  ConvGradients result{none, none, none, none, none};
  if (wanted.input)
    result.input = empty4(input, {input.size(0), input.size(1), input.size(2), input.size(3)},
                          is_channels_last(input) || is_channels_last(weight));
  const Division division =
      divide<Device>(arguments, activation_params, wanted, grad_output, input, weight, result.input);
  explain_activation(identity, division);
  const ActivationGradients activated = activation_gradients<Device>(
      arguments.op, grad_output, identity ? grad_output : *saved, activation_params, division.copies,
      wanted.bias && !division.bias_with_weight, wanted.prelu_weight);
  result.bias = activated.bias;
  result.prelu_weight = activated.prelu_weight;
  if (wanted.input && result.input.numel() > 0) {
    typename Device::ConvParams params{
        input_gradient_params(arguments, activated.preactivation, weight, result.input), {}};
    if constexpr (Device::kCuda) params.input_mask = division.mask;
    explain_step("input gradient");
    Device::compute(params, input, arguments.op);
  }
  if (wanted.weight)
    weight_gradient<Device>(arguments, activated.preactivation, division, input, weight, result);
  // An operator must not return its argument, so without an activation this is a copy.
  if (wanted.preactivation)
    result.preactivation = identity ? torch::stable::clone(grad_output) : activated.preactivation;
  return result;
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> conv2d_backward(
    const Tensor& grad_output, const Tensor& input, const Tensor& weight, const std::optional<Tensor>& saved,
    const std::optional<Tensor>& prelu_weight, const std::vector<int64_t>& stride,
    const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation, int64_t groups,
    const StringArgument& activation, double negative_slope, const std::vector<bool>& output_mask,
    const StringArgument& precision) {
  const char* op = "conv2d_backward";
  const Precision allowed = Device::precision(parse_precision(precision, op), input);
  const ConvArguments arguments{op, stride, padding, dilation, {}, groups, false, allowed};
  STD_TORCH_CHECK(output_mask.size() == 5, "conv2d_backward: output_mask must hold 5 booleans");
  ConvGradients g = conv_gradients<Device>(arguments, grad_output, input, weight, saved, prelu_weight,
                                           activation, negative_slope, output_mask);
  return {g.input, g.weight, g.bias, g.prelu_weight, g.preactivation};
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor, Tensor> conv_transpose2d_backward(
    const Tensor& grad_output, const Tensor& input, const Tensor& weight, const std::optional<Tensor>& saved,
    const std::optional<Tensor>& prelu_weight, const std::vector<int64_t>& stride,
    const std::vector<int64_t>& padding, const std::vector<int64_t>& output_padding, int64_t groups,
    const std::vector<int64_t>& dilation, const StringArgument& activation, double negative_slope,
    const std::vector<bool>& output_mask, const StringArgument& precision) {
  const char* op = "conv_transpose2d_backward";
  const Precision allowed = Device::precision(parse_precision(precision, op), input);
  const ConvArguments arguments{op, stride, padding, dilation, output_padding, groups, true, allowed};
  STD_TORCH_CHECK(output_mask.size() == 4, "conv_transpose2d_backward: output_mask must hold 4 booleans");
  ConvGradients g = conv_gradients<Device>(arguments, grad_output, input, weight, saved, prelu_weight,
                                           activation, negative_slope, output_mask);
  return {g.input, g.weight, g.bias, g.prelu_weight};
}

}  // namespace
}  // namespace denoise_ext::ops

DENOISE_EXT_SCHEMAS(m) {
  m.def(
      "conv2d_backward(Tensor grad_output, Tensor input, Tensor weight, Tensor? saved, Tensor? prelu_weight, "
      "int[2] stride, int[2] padding, int[2] dilation, int groups, str activation, float negative_slope, "
      "bool[5] output_mask, str precision='default') -> (Tensor grad_input, Tensor grad_weight, Tensor "
      "grad_bias, "
      "Tensor grad_prelu_weight, Tensor grad_preactivation)");
  m.def(
      "conv_transpose2d_backward(Tensor grad_output, Tensor input, Tensor weight, Tensor? saved, "
      "Tensor? prelu_weight, int[2] stride, int[2] padding, int[2] output_padding, int groups, "
      "int[2] dilation, str activation, float negative_slope, bool[4] output_mask, "
      "str precision='default') -> "
      "(Tensor grad_input, Tensor grad_weight, Tensor grad_bias, Tensor grad_prelu_weight)");
}

DENOISE_EXT_REGISTER(conv2d_backward)
DENOISE_EXT_REGISTER(conv_transpose2d_backward)
