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
// grad_weight[k][c][u][v] = sum over n, y, x of  coarse[n][k][y][x] * fine[n][c][y*stride + u*dilation -
// padding][...] conv2d: coarse = gradient of the output, fine = input. conv_transpose2d: coarse = input, fine
// = gradient of the output.
struct ConvWeightGradParams {
  Tensor4 coarse;       // (N, K, OH, OW)
  Tensor4 fine;         // (N, C, H, W)
  Tensor4 grad_weight;  // (K, C / groups, KH, KW)
  int64_t stride[2];
  int64_t padding[2];
  int64_t dilation[2];
  int64_t groups;
};

}  // namespace denoise_ext
