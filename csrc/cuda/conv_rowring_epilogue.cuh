// What becomes of a warp's sums in the row-ring convolution: bias, residual, activation, 16-byte stores.
#pragma once

#include "conv_rowring_rows.cuh"

namespace denoise_ext::cuda {

template <class Storage>
__device__ __forceinline__ uint4 load_channels(const Tensor4& t, const Storage* pixel, int64_t k,
                                               bool vectors) {
  if (!vectors) return gather_channels(t, pixel, k);
  if (pixel == nullptr || k >= t.size[1]) return uint4{0, 0, 0, 0};
  return *reinterpret_cast<const uint4*>(pixel + k);
}

// A plain assignment of a uint4 becomes four 4-byte stores here: the compiler stops merging them in kernels
// of this size.
__device__ __forceinline__ void store_vector(void* to, const uint4& vector) {
  __stwb(static_cast<uint4*>(to), vector);
}

template <class Storage>
__device__ __forceinline__ void store_channels(const uint4& vector, const Tensor4& t, Storage* pixel,
                                               int64_t k, bool vectors) {
  if (pixel == nullptr) return;
  if (vectors) {
    if (k < t.size[1]) store_vector(pixel + k, vector);
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

// The 8 neighbouring channels that a lane has of a pixel, k and on, to memory and from it.
template <class Storage>
__device__ __forceinline__ void store_eight(const float (&v)[8], const Tensor4& t, Storage* pixel, int64_t k,
                                            bool vectors) {
  if constexpr (sizeof(Storage) == 2) {
    store_channels(pack<Storage>(v), t, pixel, k, vectors);
  } else {
    store_channels(pack<Storage>({v[0], v[1], v[2], v[3]}), t, pixel, k, vectors);
    store_channels(pack<Storage>({v[4], v[5], v[6], v[7]}), t, pixel, k + 4, vectors);
  }
}
template <class Storage>
__device__ __forceinline__ void load_eight(float (&v)[8], const Tensor4& t, const Storage* pixel, int64_t k,
                                           bool vectors) {
  constexpr int kLanes = kVectorLanes<Storage>;
#pragma unroll
  for (int first = 0; first < 8; first += kLanes) {
    float part[kLanes];
    unpack<Storage>(load_channels(t, pixel, k + first, vectors), part);
#pragma unroll
    for (int i = 0; i < kLanes; ++i) v[first + i] = part[i];
  }
}

// v += a pixel's 8 channels of a residual.
template <class Storage, int kVectors>
__device__ __forceinline__ void add_vectors(float (&v)[8], const uint4 (&residual)[kVectors]) {
  constexpr int kLanes = kVectorLanes<Storage>;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    float part[kLanes];
    unpack<Storage>(residual[i], part);
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) v[i * kLanes + lane] += part[lane];
  }
}

// Where a warp's sums go: its first row, and this lane's channels and first pixel.
struct RowRingEnd {
  int image, y, x;
  int64_t k;           // the first of the lane's 8 channels
  const float* terms;  // in shared memory: their biases, and kRowRingOutputs on their slopes below zero
};

// v: of pixel `half` of row r, the lane's 8 channels with the bias. row_ring_pack_kernel() puts the outputs
// into an order in which a lane's columns of the four tiles are neighbouring channels.
template <class Sums>
__device__ __forceinline__ void add_bias(const Sums& sums, int r, int half, const float* bias,
                                         float (&v)[8]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) v[i] = sums[r][i / 2][2 * half + i % 2] + bias[i];
}

// Any end, an element at a time where there are no vectors. A loop that is not unrolled keeps the code of
// the activations small: its row is always sums[0].
template <class Storage, class Ring>
__device__ __forceinline__ void finish_any(const ConvParams& p, const RowRingPlan& plan,
                                           RowRingSums<Ring>& sums, const RowRingEnd& at) {
  const bool before = p.residual_position == ResidualPosition::kBeforeActivation;
#pragma unroll 1
  for (int r = 0; r < 2 * Ring::kRows; ++r) {
    const int y = at.y + r / 2, x = at.x + r % 2 * 8;
    const bool inside = y < p.output.size[2] && x < p.output.size[3];
    float v[8], residual[8] = {};
    add_bias(sums, 0, 0, at.terms, v);
    if (p.residual.data != nullptr)
      load_eight(residual, p.residual,
                 inside ? element<const Storage>(p.residual, at.image, 0, y, x) : nullptr, at.k,
                 plan.vector_residual);
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] += before ? residual[i] : 0.0f;
    activate_all(v, p.activation, at.terms + kRowRingOutputs);
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] += before ? 0.0f : residual[i];
    store_eight(v, p.output, inside ? element<Storage>(p.output, at.image, 0, y, x) : nullptr, at.k,
                plan.vector_output);
#pragma unroll
    for (int i = 0; i < Ring::kRows; ++i)
#pragma unroll
      for (int tile = 0; tile < 4; ++tile)
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          sums[i][tile][j] = sums[i][tile][2 + j];
          sums[i][tile][2 + j] = i + 1 < Ring::kRows ? sums[i + 1 < Ring::kRows ? i + 1 : i][tile][j] : 0.0f;
        }
  }
}

// The same 16 bytes at a time, for activations of few instructions. All residuals are on their way together.
template <class Storage, class Ring>
__device__ __forceinline__ void finish_vectors(const ConvParams& p, const RowRingSums<Ring>& sums,
                                               const RowRingEnd& at) {
  constexpr int kLanes = kVectorLanes<Storage>, kVectors = 8 / kLanes;
  const bool has_residual = p.residual.data != nullptr;
  const bool before = has_residual && p.residual_position == ResidualPosition::kBeforeActivation;
  const auto is_inside = [&](int r, int half, int vector) {
    return at.y + r < p.output.size[2] && at.x + 8 * half < p.output.size[3] &&
           at.k + vector * kLanes < p.output.size[1];
  };
  uint4 residual[Ring::kRows][2][kVectors] = {};
  if (has_residual) {
    const Storage* row = element<const Storage>(p.residual, at.image, at.k, at.y, at.x);
#pragma unroll
    for (int r = 0; r < Ring::kRows; ++r, row += p.residual.stride[2])
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int i = 0; i < kVectors; ++i)
          if (is_inside(r, half, i))
            residual[r][half][i] =
                *reinterpret_cast<const uint4*>(row + 8 * half * p.residual.stride[3] + i * kLanes);
  }
  float bias[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) bias[i] = at.terms[i];
  Storage* row = element<Storage>(p.output, at.image, at.k, at.y, at.x);
#pragma unroll
  for (int r = 0; r < Ring::kRows; ++r, row += p.output.stride[2])
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float v[8];
      add_bias(sums, r, half, bias, v);
      if (before) add_vectors<Storage>(v, residual[r][half]);
      if (p.activation == Activation::kRelu) {
        activate_all(v, Activation::kRelu, nullptr);
      } else if (p.activation != Activation::kNone) {
        activate_all(v, Activation::kPrelu, at.terms + kRowRingOutputs);
      }
      if (has_residual && !before) add_vectors<Storage>(v, residual[r][half]);
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        float part[kLanes];
#pragma unroll
        for (int lane = 0; lane < kLanes; ++lane) part[lane] = v[i * kLanes + lane];
        if (is_inside(r, half, i))
          store_vector(row + 8 * half * p.output.stride[3] + i * kLanes, pack<Storage>(part));
      }
    }
}

// Finishes a warp's sums and sets them to zero.
template <class Storage, class Ring>
__device__ __forceinline__ void finish_group(const ConvParams& p, const RowRingPlan& plan,
                                             RowRingSums<Ring>& sums, const RowRingStep& step, int first_x,
                                             int first_output, const float* channels) {
  const int lane = static_cast<int>(threadIdx.x % 32), channel = first_output + lane % 4 * 8;
  const RowRingEnd at{step.image, step.y, step.x + first_x + lane / 4,
                      int64_t{step.output_block} * kRowRingOutputs + channel, channels + channel};
  if (plan.vector_end) {
    finish_vectors<Storage, Ring>(p, sums, at);
  } else {
    finish_any<Storage, Ring>(p, plan, sums, at);
  }
#pragma unroll
  for (int i = 0; i < Ring::kRows; ++i)
#pragma unroll
    for (int tile = 0; tile < 4; ++tile)
#pragma unroll
      for (int j = 0; j < 4; ++j) sums[i][tile][j] = 0.0f;
}

}  // namespace denoise_ext::cuda
