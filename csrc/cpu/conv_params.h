// A convolution as the CPU's kernels take it: the mathematics and what these kernels alone can do besides.
#pragma once

#include "../params/conv.h"

namespace denoise_ext::cpu {

enum class ConvAlgorithm : int32_t { kAuto, kDirect, kWinograd2, kWinograd4, kWinograd6 };

// A second convolution of the same geometry, whose activated result the first one's is multiplied with. By
// direct sums: dense ones read the same input, depthwise ones read channels that lie side by side.
struct ConvGate {
  Tensor4 input, weight;  // of the first one's sizes and strides; no data: there is no gate
  Tensor1 bias, packed_weight;
  Activation activation;  // none, or one that is long
};

struct ConvOptions {
  Border border = Border::kConstant;               // what the padding is filled with
  ConvAlgorithm algorithm = ConvAlgorithm::kAuto;  // kAuto: the cheapest that applies, but kWinograd2
  Tensor1 packed_weight = {};                      // what conv2d_pack made of `weight`, or absent
  // A step between two levels of a U-Net, for Winograd's algorithms with a 3x3 weight and padding 1.
  // (N, C0, H / 2, W / 2), or absent: C0 channels before those of `input`, every pixel counting 2x2 times.
  Tensor4 coarse = {};
  // (N, K, OH / 2, OW / 2), or absent: the output's 2x2 blocks. `output` may then have sizes alone, no data.
  Tensor4 pooled = {};
  Pooling pooling = Pooling::kMaximum;
  ConvGate gate = {};
};

struct ConvParams : denoise_ext::ConvParams, ConvOptions {};

}  // namespace denoise_ext::cpu
