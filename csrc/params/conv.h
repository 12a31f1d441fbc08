// conv2d and conv_transpose2d, and with the roles of the tensors exchanged their gradients.
#pragma once

#include "launch.h"
#include "types.h"

namespace denoise_ext {

// How the CPU computes a convolution; the GPU chooses among its own kernels.
enum class ConvAlgorithm : int32_t { kAuto, kDirect, kWinograd4, kWinograd6 };

// The gradient of ReLU or leaky ReLU as something done to a tensor while it is read: an element g counts
// as g where the activation's output was positive, as g * slope elsewhere, rounded to its type as if it
// had been stored. So the masked tensor never exists.
struct ActivationMask {
  Tensor4 saved;  // the activation's output, of the masked tensor's sizes; absent: nothing is done
  double slope;   // 0 for ReLU
};

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
  ActivationMask input_mask = {};  // CUDA only, and only where conv_masks_input() says so

  // The rest is for the CPU alone; CUDA kernels take the defaults.
  Border border = Border::kConstant;               // what the padding is filled with
  ConvAlgorithm algorithm = ConvAlgorithm::kAuto;  // kAuto: the cheapest that applies
  Tensor1 packed_weight = {};                      // what conv2d_pack made of `weight`, or absent
  // A step between two levels of a U-Net, for Winograd's algorithms with a 3x3 weight and padding 1.
  // (N, C0, H / 2, W / 2), or absent: C0 channels before those of `input`, every pixel counting 2x2 times.
  Tensor4 coarse = {};
  // (N, K, OH / 2, OW / 2), or absent: the output's 2x2 blocks. `output` may then have sizes alone, no data.
  Tensor4 pooled = {};
  Pooling pooling = Pooling::kMaximum;
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
  // CUDA only:
  ActivationMask coarse_mask;
  void* grad_bias;  // (K), result: the sums of `coarse` over its pixels; or nullptr
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
// two values, and both tensors lie in memory alike, so that whoever reads one can read the other.
inline bool is_mask(const ActivationGradParams& p) {
  if (p.activation != Activation::kRelu && p.activation != Activation::kLeakyRelu) return false;
  for (int axis = 0; axis < 4; ++axis)
    if (p.grad_output.size[axis] > 1 && p.grad_output.stride[axis] != p.saved.stride[axis]) return false;
  return true;
}
inline ActivationMask mask_of(const ActivationGradParams& p) {
  return {p.saved, p.activation == Activation::kRelu ? 0.0 : p.negative_slope};
}

// Entry points of the CUDA build. Each picks the cheapest of the operator's kernels that can run,
// enqueues it on context.stream and returns 0 or a CUDA error code.
namespace cuda {

int conv(const ConvParams& params, const LaunchContext& context);
int64_t conv_workspace_bytes(const ConvParams& params, const DeviceLimits& limits);
// Whether the kernel that would run without a mask can also read its input through one. One that reads an
// input element once per tap cannot: a masked copy costs less than as many looks at the mask.
bool conv_masks_input(const ConvParams& params, const DeviceLimits& limits);
// Which kernel would run and why the others would not, a line each.
void conv_explain(const ConvParams& params, const DeviceLimits& limits, char* text, int bytes);

int conv_weight_grad(const ConvWeightGradParams& params, const LaunchContext& context);
int64_t conv_weight_grad_workspace_bytes(const ConvWeightGradParams& params, const DeviceLimits& limits);
void conv_weight_grad_explain(const ConvWeightGradParams& params, const DeviceLimits& limits, char* text,
                              int bytes);

int activation_grad(const ActivationGradParams& params, const LaunchContext& context);
int64_t activation_grad_workspace_bytes(const ActivationGradParams& params, const DeviceLimits& limits);

}  // namespace cuda
}  // namespace denoise_ext
