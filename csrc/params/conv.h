// conv2d and conv_transpose2d, and with the roles of the tensors exchanged their gradients.
#pragma once

#include "types.h"

namespace denoise_ext {

// output = act(conv(input, weight) + bias [+ residual]) [+ residual]
struct ConvParams {
  Tensor4 input;     // (N, C, H, W)
  Tensor4 output;    // (N, K, OH, OW)
  Tensor4 residual;  // like output, or absent
  // conv2d:           (K, C / groups, KH, KW), size[0] runs over output channels
  // conv_transpose2d: (C, K / groups, KH, KW), size[0] runs over input channels
  Tensor4 weight;
  Tensor1 bias;          // (K), or absent
  Tensor1 prelu_weight;  // (1) or (K), or absent
  int64_t stride[2];
  int64_t padding[2];
  int64_t dilation[2];
  int64_t groups;
  bool transposed;
  Activation activation;
  double negative_slope;
  ResidualPosition residual_position;
};

// The gradient of a convolution with respect to its weight:
//   grad_weight[k][c][u][v] = sum over n, y, x of
//       coarse[n][k][y][x] * fine[n][c][y * stride + u * dilation - padding][x * stride + v * dilation -
//       padding]
// conv2d: coarse is the gradient of the output and fine the input; conv_transpose2d: the reverse.
struct ConvWeightGradParams {
  Tensor4 coarse;       // (N, K, OH, OW)
  Tensor4 fine;         // (N, C, H, W)
  Tensor4 grad_weight;  // (K, C / groups, KH, KW)
  int64_t stride[2];
  int64_t padding[2];
  int64_t dilation[2];
  int64_t groups;
};

// The gradient of act(z + bias) with respect to z, bias and PReLU's slopes.
struct ActivationGradParams {
  Tensor4 grad_output;   // (N, K, H, W)
  Tensor4 saved;         // the activation's output; for PReLU its input; absent where there is none
  Tensor4 grad_input;    // result, or absent (activation none: it would equal grad_output)
  Tensor1 prelu_weight;  // (1) or (K)
  double* grad_bias;     // (K), or nullptr
  double* grad_prelu;    // (K), the sum over its pixels for each channel, or nullptr
  Activation activation;
  double negative_slope;
};

}  // namespace denoise_ext
