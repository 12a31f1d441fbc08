// What becomes of a warp's sums in the row-ring convolution: bias, residual, activation, 16-byte stores.
#pragma once

#include <cstring>

#include "conv_rowring.cuh"

namespace denoise_ext::cuda {

// Two values as neighbouring 16-bit elements, the first in the low half, and back.
__device__ __forceinline__ uint32_t pack_pair(float low, float high, __half) {
  return static_cast<uint32_t>(__half_as_ushort(__float2half_rn(low))) |
         static_cast<uint32_t>(__half_as_ushort(__float2half_rn(high))) << 16;
}
__device__ __forceinline__ uint32_t pack_pair(float low, float high, __nv_bfloat16) {
  return static_cast<uint32_t>(__bfloat16_as_ushort(__float2bfloat16_rn(low))) |
         static_cast<uint32_t>(__bfloat16_as_ushort(__float2bfloat16_rn(high))) << 16;
}
__device__ __forceinline__ float unpack(uint32_t bits, __half) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(bits & 0xffff)));
}
__device__ __forceinline__ float unpack(uint32_t bits, __nv_bfloat16) {
  return __bfloat162float(__ushort_as_bfloat16(static_cast<unsigned short>(bits & 0xffff)));
}

// Transposes the 4 x 4 words that the 4 lanes of a quad hold: word j of lane i becomes word i of lane j.
// Turns a pixel's row of four accumulator tiles (lane t: channels 2t, 2t + 1 of each tile of 8) into 8
// consecutive channels per lane (lane t: those of tile t), and back. All 32 lanes take part.
__device__ __forceinline__ void transpose_quad(uint32_t (&word)[4]) {
  const int lane = static_cast<int>(threadIdx.x % 4);
#pragma unroll
  for (int distance = 1; distance < 4; distance *= 2) {
    const bool upper = (lane & distance) != 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if ((j & distance) != 0) continue;
      const uint32_t received = __shfl_xor_sync(0xffffffffu, upper ? word[j] : word[j + distance], distance);
      if (upper) {
        word[j] = received;
      } else {
        word[j + distance] = received;
      }
    }
  }
}

template <Activation kActivation>
__device__ __forceinline__ void activate_eight(float (&v)[8], const float (&slope)[8]) {
#pragma unroll
  for (int j = 0; j < 8; ++j) v[j] = activate<float>(v[j], kActivation, slope[j]);
}

__device__ __forceinline__ void activate_eight(float (&v)[8], Activation activation,
                                               const float (&slope)[8]) {
  switch (activation) {
    case Activation::kRelu: return activate_eight<Activation::kRelu>(v, slope);
    case Activation::kLeakyRelu:
    case Activation::kPrelu: return activate_eight<Activation::kPrelu>(v, slope);
    case Activation::kSigmoid: return activate_eight<Activation::kSigmoid>(v, slope);
    case Activation::kTanh: return activate_eight<Activation::kTanh>(v, slope);
    case Activation::kNone: break;
  }
}

__device__ __forceinline__ void load_eight(uint32_t (&word)[4], const Tensor4& t, const uint16_t* pixel,
                                           int64_t k, bool vectors) {
  uint4 loaded{0, 0, 0, 0};
  if (!vectors) {
    loaded = gather_channels(t, pixel, k);
  } else if (pixel != nullptr && k < t.size[1]) {
    loaded = *reinterpret_cast<const uint4*>(pixel + k);
  }
  word[0] = loaded.x;
  word[1] = loaded.y;
  word[2] = loaded.z;
  word[3] = loaded.w;
}

__device__ __forceinline__ void store_eight(const uint32_t (&word)[4], const Tensor4& t, uint16_t* pixel,
                                            int64_t k, bool vectors) {
  if (pixel == nullptr) return;
  if (vectors) {
    // A plain assignment of a uint4 becomes four 4-byte stores here: the compiler stops merging them in
    // kernels of this size.
    if (k < t.size[1]) __stwb(reinterpret_cast<uint4*>(pixel + k), uint4{word[0], word[1], word[2], word[3]});
    return;
  }
#pragma unroll
  for (int j = 0; j < 8; ++j)
    if (k + j < t.size[1])
      pixel[(k + j) * t.stride[1]] = static_cast<uint16_t>(word[j / 2] >> (16 * (j % 2)));
}

// Turns a row of 8 pixels x 32 channels of sums (v: this lane's 2 channels of 4 tiles) into outputs.
// `channels` holds (2, 64) in shared memory: the block's biases, and its slopes below zero.
template <class Storage>
__device__ __forceinline__ void finish_pixels(const ConvParams& p, const RowRingPlan& plan, float (&v)[8],
                                              const RowRingStep& step, int y, int x, int first_output,
                                              const float* channels) {
  const int lane = static_cast<int>(threadIdx.x % 4);
  const bool inside = y < p.output.size[2] && x < p.output.size[3];
  const int64_t k = int64_t{step.output_block} * kRowRingOutputs + first_output + 8 * lane;
  float slope[8], residual[8];
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const int channel = first_output + j / 2 * 8 + 2 * lane + j % 2;
    v[j] += channels[channel];
    slope[j] = channels[kRowRingOutputs + channel];
    residual[j] = 0;
  }
  uint32_t word[4];
  if (p.residual.data != nullptr) {
    const uint16_t* const from = inside ? element<const uint16_t>(p.residual, step.image, 0, y, x) : nullptr;
    load_eight(word, p.residual, from, k, plan.vector_residual);
    transpose_quad(word);
#pragma unroll
    for (int j = 0; j < 8; ++j) residual[j] = unpack(word[j / 2] >> (16 * (j % 2)), Storage{});
  }
  const bool before = p.residual_position == ResidualPosition::kBeforeActivation;
#pragma unroll
  for (int j = 0; j < 8; ++j) v[j] += before ? residual[j] : 0.0f;
  activate_eight(v, p.activation, slope);
#pragma unroll
  for (int j = 0; j < 8; ++j) v[j] += before ? 0.0f : residual[j];
#pragma unroll
  for (int j = 0; j < 4; ++j) word[j] = pack_pair(v[2 * j], v[2 * j + 1], Storage{});
  transpose_quad(word);
  uint16_t* const to = inside ? element<uint16_t>(p.output, step.image, 0, y, x) : nullptr;
  store_eight(word, p.output, to, k, plan.vector_output);
}

// Finishes a warp's sums and sets them to zero.
template <class Storage, class Ring>
__device__ __forceinline__ void finish_group(const ConvParams& p, const RowRingPlan& plan,
                                             RowRingSums<Ring>& sums, const RowRingStep& step, int first_x,
                                             int first_output, const float* channels) {
  const int x = step.x + first_x + static_cast<int>(threadIdx.x % 32 / 4);
  // A loop that is not unrolled keeps the code of the activations small; its row is always sums[0].
#pragma unroll 1
  for (int r = 0; r < Ring::kRows; ++r) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float v[8];
#pragma unroll
      for (int j = 0; j < 8; ++j) v[j] = sums[0][j / 2][2 * half + j % 2];
      finish_pixels<Storage>(p, plan, v, step, step.y + r, x + 8 * half, first_output, channels);
    }
#pragma unroll
    for (int i = 0; i < Ring::kRows; ++i)
#pragma unroll
      for (int tile = 0; tile < 4; ++tile)
#pragma unroll
        for (int j = 0; j < 4; ++j)
          sums[i][tile][j] = i + 1 < Ring::kRows ? sums[i + 1 < Ring::kRows ? i + 1 : i][tile][j] : 0.0f;
  }
}

// Bias and slope below zero of the block's output channels; 0 past the last.
template <class Storage, class Ring>
__device__ __forceinline__ void load_channels(const ConvParams& p, int output_block, float* channels) {
  const bool slopes = p.activation == Activation::kPrelu || p.activation == Activation::kLeakyRelu;
  for (int i = static_cast<int>(threadIdx.x); i < kRowRingOutputs; i += Ring::kThreads) {
    const int64_t k = int64_t{output_block} * kRowRingOutputs + i;
    const bool exists = k < p.output.size[1];
    channels[i] = exists && p.bias.data != nullptr ? channel_value<Storage, float>(p.bias, k) : 0.0f;
    channels[kRowRingOutputs + i] = exists && slopes ? negative_slope<Storage, float>(p, k) : 0.0f;
  }
}

}  // namespace denoise_ext::cuda
