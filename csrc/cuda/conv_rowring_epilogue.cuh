// What becomes of a warp's sums in the row-ring convolution: bias, residual, activation, 16-byte stores.
#pragma once

#include "conv_rowring_rows.cuh"

namespace denoise_ext::cuda {

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

template <class Storage>
__device__ __forceinline__ uint4 load_channels(const Tensor4& t, const Storage* pixel, int64_t k,
                                               bool vectors) {
  if (!vectors) return gather_channels(t, pixel, k);
  if (pixel == nullptr || k >= t.size[1]) return uint4{0, 0, 0, 0};
  return *reinterpret_cast<const uint4*>(pixel + k);
}

template <class Storage>
__device__ __forceinline__ void store_channels(const uint4& vector, const Tensor4& t, Storage* pixel,
                                               int64_t k, bool vectors) {
  if (pixel == nullptr) return;
  if (vectors) {
    // A plain assignment of a uint4 becomes four 4-byte stores here: the compiler stops merging them in
    // kernels of this size.
    if (k < t.size[1]) __stwb(reinterpret_cast<uint4*>(pixel + k), vector);
    return;
  }
  using Bits = ElementBits<Storage>;
  constexpr int kPerWord = 4 / static_cast<int>(sizeof(Bits));
  const uint32_t word[4] = {vector.x, vector.y, vector.z, vector.w};
#pragma unroll
  for (int j = 0; j < kVectorLanes<Storage>; ++j)
    if (k + j < t.size[1])
      reinterpret_cast<Bits*>(pixel)[(k + j) * t.stride[1]] =
          static_cast<Bits>(word[j / kPerWord] >> (16 * (j % kPerWord)));
}

// Exchanges within the quad: from the 2 channels of 4 tiles that a lane has of a pixel (v[2i], v[2i + 1]:
// of tile i) to the 8 neighbouring channels of the lane's tile, k and on, and to memory.
template <class Storage>
__device__ __forceinline__ void store_tiles(const float (&v)[8], const Tensor4& t, Storage* pixel, int64_t k,
                                            bool vectors) {
  if constexpr (sizeof(Storage) == 2) {
    uint32_t word[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) word[j] = pack_word({v[2 * j], v[2 * j + 1]}, Storage{});
    transpose_quad(word);
    store_channels(uint4{word[0], word[1], word[2], word[3]}, t, pixel, k, vectors);
  } else {
    uint32_t even[4], odd[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      even[j] = __float_as_uint(v[2 * j]);
      odd[j] = __float_as_uint(v[2 * j + 1]);
    }
    transpose_quad(even);
    transpose_quad(odd);
    store_channels(uint4{even[0], odd[0], even[1], odd[1]}, t, pixel, k, vectors);
    store_channels(uint4{even[2], odd[2], even[3], odd[3]}, t, pixel, k + 4, vectors);
  }
}

// The way back.
template <class Storage>
__device__ __forceinline__ void load_tiles(float (&v)[8], const Tensor4& t, const Storage* pixel, int64_t k,
                                           bool vectors) {
  const uint4 low = load_channels(t, pixel, k, vectors);
  if constexpr (sizeof(Storage) == 2) {
    uint32_t word[4] = {low.x, low.y, low.z, low.w};
    transpose_quad(word);
    unpack<Storage>(uint4{word[0], word[1], word[2], word[3]}, v);
  } else {
    const uint4 high = load_channels(t, pixel, k + 4, vectors);
    uint32_t even[4] = {low.x, low.z, high.x, high.z}, odd[4] = {low.y, low.w, high.y, high.w};
    transpose_quad(even);
    transpose_quad(odd);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      v[2 * j] = __uint_as_float(even[j]);
      v[2 * j + 1] = __uint_as_float(odd[j]);
    }
  }
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
  if (p.residual.data != nullptr)
    load_tiles(residual, p.residual,
               inside ? element<const Storage>(p.residual, step.image, 0, y, x) : nullptr, k,
               plan.vector_residual);
  const bool before = p.residual_position == ResidualPosition::kBeforeActivation;
#pragma unroll
  for (int j = 0; j < 8; ++j) v[j] += before ? residual[j] : 0.0f;
  activate_all(v, p.activation, slope);
#pragma unroll
  for (int j = 0; j < 8; ++j) v[j] += before ? 0.0f : residual[j];
  store_tiles(v, p.output, inside ? element<Storage>(p.output, step.image, 0, y, x) : nullptr, k,
              plan.vector_output);
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

}  // namespace denoise_ext::cuda
