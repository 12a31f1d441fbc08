// conv2d and conv_transpose2d, and with the roles of the tensors exchanged their gradients.
#pragma once

#include "launch.h"
#include "types.h"

namespace denoise_ext {

// The gradient of ReLU or leaky ReLU as something done to a tensor while it is read: an element g counts
// as g where the activation's output was positive, elsewhere as 0 behind ReLU and as g * slope behind leaky
// ReLU, rounded to its type as if it had been stored. So the masked tensor never exists.
struct ActivationMask {
  Tensor4 saved;  // the activation's output, of the masked tensor's sizes; absent: nothing is done
  double slope;   // 0 for ReLU, else of leaky ReLU
};

// The mathematics of a convolution. What one device alone can do is in its own cpu::ConvParams
// (cpu/conv_params.h) and cuda::ConvParams (below).
//
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
  Precision precision;
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
  Precision precision;
};

// The gradient of act(z + bias) with respect to z, bias and PReLU's slopes.
struct ActivationGradParams {
  Tensor4 grad_output;   // (N, K, H, W)
  Tensor4 saved;         // the activation's output; for PReLU its input; absent where there is none
  Tensor4 grad_input;    // result, or absent where only the sums are wanted
  Tensor1 prelu_weight;  // (1) or (K)
  // (2, K), added to: the sums over each channel that are the gradients of bias and of PReLU's slope;
  // or nullptr.
  double* sums;
  Activation activation;
  double negative_slope;
};

// Whether that gradient can be a mask on what the convolution's gradients read: the activation's slope has
// two values, and both tensors lie in memory alike, so that whoever reads one can read the other. Leaky ReLU
// of slope 0 multiplies, as in torch, and a mask of slope 0 selects.
inline bool is_mask(const ActivationGradParams& p) {
  const bool leaky = p.activation == Activation::kLeakyRelu && p.negative_slope != 0.0;
  if (p.activation != Activation::kRelu && !leaky) return false;
  for (int axis = 0; axis < 4; ++axis)
    if (p.grad_output.size[axis] > 1 && p.grad_output.stride[axis] != p.saved.stride[axis]) return false;
  return true;
}
inline ActivationMask mask_of(const ActivationGradParams& p) {
  return {p.saved, p.activation == Activation::kRelu ? 0.0 : p.negative_slope};
}

// Its line of explain(): there is one kernel.
inline const char* explanation(const ActivationGradParams& p) {
  return p.grad_input.data == nullptr
             ? "activation_grad: chosen, for the sums alone"
             : "activation_grad: chosen, into a temporary tensor of grad_output's size";
}

// Entry points of the CUDA build. run() picks the cheapest of the operator's kernels that can run,
// enqueues it on context.stream and returns 0 or a CUDA error code. explain() has a line for each kernel:
// that it would be chosen, or why not.
namespace cuda {

struct ConvOptions {
  ActivationMask input_mask = {};  // only where conv_masks_input() is true
};
struct ConvParams : denoise_ext::ConvParams, ConvOptions {};

struct ConvWeightGradOptions {
  ActivationMask coarse_mask = {};
  void* grad_bias = nullptr;  // (K), result: the sums of `coarse` over its pixels; or nullptr
};
struct ConvWeightGradParams : denoise_ext::ConvWeightGradParams, ConvWeightGradOptions {};

int run(const ConvParams& params, const LaunchContext& context);
int64_t workspace_bytes(const ConvParams& params, const DeviceLimits& limits);
void explain(const ConvParams& params, const DeviceLimits& limits, char* text, int bytes);
// Whether the kernel that would run without a mask can also read its input through one. One that reads an
// input element once per tap cannot: a masked copy costs less than as many looks at the mask.
bool conv_masks_input(const ConvParams& params, const DeviceLimits& limits);

int run(const ConvWeightGradParams& params, const LaunchContext& context);
int64_t workspace_bytes(const ConvWeightGradParams& params, const DeviceLimits& limits);
void explain(const ConvWeightGradParams& params, const DeviceLimits& limits, char* text, int bytes);

int run(const ActivationGradParams& params, const LaunchContext& context);
int64_t workspace_bytes(const ActivationGradParams& params, const DeviceLimits& limits);
void explain(const ActivationGradParams& params, const DeviceLimits& limits, char* text, int bytes);

}  // namespace cuda
}  // namespace denoise_ext
