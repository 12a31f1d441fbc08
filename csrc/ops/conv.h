// Argument checks that conv2d and conv_transpose2d share.
#pragma once

#include "../params/conv.h"
#include "common.h"

namespace denoise_ext::ops {

// The arguments of a convolution that are not tensors, as the schema passes them.
struct ConvArguments {
  const char* op;
  std::vector<int64_t> stride, padding, dilation;
  std::vector<int64_t> output_padding;  // conv_transpose2d only
  int64_t groups;
  bool transposed;
  Precision precision;
};

// The weight alone; its sizes are bounded and not zero.
void check_weight(const Tensor& weight, const char* op);
void check_conv_arguments(const ConvArguments& arguments, const Tensor& input, const Tensor& weight);

// (N, K, OH, OW) of the output; raises where the kernel does not fit the padded input, and where an extent is
// beyond the limits.
std::array<int64_t, 4> conv_output_sizes(const ConvArguments& arguments, const Tensor& input,
                                         const Tensor& weight);

// Params with geometry, input and weight filled in; the rest is empty.
ConvParams conv_params(const ConvArguments& arguments, const Tensor& input, const Tensor& weight,
                       const Tensor& output);

// Fills in bias, activation and its slope(s), checking them.
void set_epilogue(ConvParams& params, const char* op, const std::optional<Tensor>& bias,
                  const std::string& activation, double negative_slope,
                  const std::optional<Tensor>& prelu_weight, const Tensor& input);

// Fills in the residual and its place, checking it against the output.
void set_residual(ConvParams& params, const char* op, const std::optional<Tensor>& residual,
                  const std::string& position, const Tensor& input);

// For operators that write into a tensor of the caller's: raises where `result` overlaps itself or what is
// read. It may be the residual itself.
void check_result(const ConvParams& params, const char* op, const char* name, const Tensor4& result,
                  const char* input_name = "input");

}  // namespace denoise_ext::ops
