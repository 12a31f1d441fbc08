#include "conv.h"

#include "results.h"

namespace denoise_ext::ops {

void check_weight(const Tensor& weight, const char* op) {
  check_dim(weight, 4, op, "weight");
  STD_TORCH_CHECK(to_dtype(weight.scalar_type(), op, "weight") != DType::kUInt8, op,
                  ": weight must be floating point, got uint8");
  STD_TORCH_CHECK(weight.numel() > 0, op, ": weight must not be empty, got ", sizes_text(weight));
  check_at_most(weight.numel(), kMostWeights, op, "weight's number of elements");
  check_at_most(weight.size(2) * weight.size(3), kMostTaps, op, "weight's rows times columns");
}

void check_conv_arguments(const ConvArguments& a, const Tensor& input, const Tensor& weight) {
  check_dim(input, 4, a.op, "input");
  STD_TORCH_CHECK(to_dtype(input.scalar_type(), a.op, "input") != DType::kUInt8, a.op,
                  ": input must be floating point, got uint8");
  check_weight(weight, a.op);
  check_same_dtype(weight, input, a.op, "weight");
  check_extents(input, a.op, "input");
  check_pair(a.stride, 1, kLargestExtent, a.op, "stride");
  check_pair(a.padding, 0, kLargestExtent, a.op, "padding");
  check_pair(a.dilation, 1, kLargestExtent, a.op, "dilation");
  STD_TORCH_CHECK(a.groups >= 1, a.op, ": groups must be at least 1, got ", a.groups);
  const int64_t channels = input.size(1);
  STD_TORCH_CHECK(weight.size(0) % a.groups == 0, a.op, ": weight's first size ", weight.size(0),
                  " must be divisible by groups = ", a.groups);
  // weight's first size is a multiple of groups, so that the product is at most its number of elements.
  const int64_t expected = a.transposed ? weight.size(0) : weight.size(1) * a.groups;
  STD_TORCH_CHECK(channels == expected, a.op, ": weight of sizes ", sizes_text(weight),
                  " with groups = ", a.groups, " needs an input of ", expected,
                  " channels, got input of sizes ", sizes_text(input));
  if (!a.transposed) return;
  check_pair(a.output_padding, 0, kLargestExtent, a.op, "output_padding");
  for (size_t i = 0; i < 2; ++i)
    STD_TORCH_CHECK(a.output_padding[i] < a.stride[i] || a.output_padding[i] < a.dilation[i], a.op,
                    ": output_padding must be smaller than stride or dilation, got output_padding ",
                    a.output_padding[i], ", stride ", a.stride[i], ", dilation ", a.dilation[i]);
}

std::array<int64_t, 4> conv_output_sizes(const ConvArguments& a, const Tensor& input, const Tensor& weight) {
  std::array<int64_t, 4> sizes{input.size(0), a.transposed ? weight.size(1) * a.groups : weight.size(0), 0,
                               0};
  for (size_t i = 0; i < 2; ++i) {
    const int64_t in = input.size(static_cast<int64_t>(2 + i));
    const int64_t reach = a.dilation[i] * (weight.size(static_cast<int64_t>(2 + i)) - 1);
    check_at_most(reach + 1, kLargestExtent, a.op, "dilation times weight's extent");
    if (a.transposed) {
      sizes[2 + i] = (in - 1) * a.stride[i] - 2 * a.padding[i] + reach + a.output_padding[i] + 1;
      STD_TORCH_CHECK(in > 0 && sizes[2 + i] > 0, a.op, ": input of sizes ", sizes_text(input),
                      " gives an output of ", sizes[2 + i], " rows or columns");
      check_at_most(sizes[2 + i], kLargestExtent, a.op, "the output's extent, by stride and dilation,");
    } else {
      check_at_most(in + 2 * a.padding[i], kLargestExtent, a.op, "input's extent with padding");
      STD_TORCH_CHECK(in > 0 && in + 2 * a.padding[i] > reach, a.op, ": kernel of extent ", reach + 1,
                      " does not fit the padded input of extent ", in + 2 * a.padding[i]);
      sizes[2 + i] = (in + 2 * a.padding[i] - reach - 1) / a.stride[i] + 1;
    }
  }
  int64_t outputs = 0;
  const bool overflow = __builtin_mul_overflow(sizes[0], sizes[1], &outputs) ||
                        __builtin_mul_overflow(outputs, sizes[2], &outputs) ||
                        __builtin_mul_overflow(outputs, sizes[3], &outputs);
  STD_TORCH_CHECK(!overflow && outputs <= kMostOutputs, a.op, ": the output must have at most ", kMostOutputs,
                  " elements, got sizes (", sizes[0], ", ", sizes[1], ", ", sizes[2], ", ", sizes[3], ")");
  return sizes;
}

ConvParams conv_params(const ConvArguments& a, const Tensor& input, const Tensor& weight,
                       const Tensor& output) {
  ConvParams params{};
  params.input = view4(input, a.op, "input");
  params.output = view4(output, a.op, "output", Access::kWrite);
  params.weight = view4(weight, a.op, "weight");
  for (size_t i = 0; i < 2; ++i) {
    params.stride[i] = a.stride[i];
    params.padding[i] = a.padding[i];
    params.dilation[i] = a.dilation[i];
  }
  params.groups = a.groups;
  params.transposed = a.transposed;
  params.activation = Activation::kNone;
  params.precision = a.precision;
  return params;
}

void set_epilogue(ConvParams& params, const char* op, const std::optional<Tensor>& bias,
                  const std::string& activation, double negative_slope,
                  const std::optional<Tensor>& prelu_weight, const Tensor& input) {
  const int64_t channels = params.output.size[1];
  if (bias.has_value()) {
    check_same_dtype(*bias, input, op, "bias");
    check_sizes(*bias, {channels}, op, "bias");
  }
  params.bias = view1(bias, op, "bias");
  params.activation = parse_activation(activation, op);
  params.negative_slope = negative_slope;
  if (params.activation == Activation::kLeakyRelu)
    STD_TORCH_CHECK(negative_slope >= 0, op, ": negative_slope must be >= 0, got ", negative_slope);
  STD_TORCH_CHECK((params.activation == Activation::kPrelu) == prelu_weight.has_value(), op,
                  ": prelu_weight is needed with activation='prelu' and only there");
  if (prelu_weight.has_value()) {
    check_same_dtype(*prelu_weight, input, op, "prelu_weight");
    check_dim(*prelu_weight, 1, op, "prelu_weight");
    STD_TORCH_CHECK(prelu_weight->size(0) == 1 || prelu_weight->size(0) == channels, op,
                    ": prelu_weight must have 1 or ", channels, " elements, got ", prelu_weight->size(0));
  }
  params.prelu_weight = view1(prelu_weight, op, "prelu_weight");
}

void set_residual(ConvParams& params, const char* op, const std::optional<Tensor>& residual,
                  const std::string& position, const Tensor& input) {
  params.residual_position = parse_residual_position(position, op);
  if (residual.has_value()) {
    const int64_t* size = params.output.size;
    check_same_dtype(*residual, input, op, "residual");
    check_sizes(*residual, {size, size + 4}, op, "residual");
  }
  params.residual = view4(residual, op, "residual");
}

void check_result(const ConvParams& p, const char* op, const char* name, const Tensor4& result,
                  const char* input_name) {
  const Tensor4 residual = is_same_view(result, p.residual) ? Tensor4{} : p.residual;
  check_no_overlap({name, result},
                   {{input_name, p.input},
                    {"residual", residual},
                    {"weight", p.weight},
                    named("bias", p.bias),
                    named("prelu_weight", p.prelu_weight)},
                   op);
}

}  // namespace denoise_ext::ops
