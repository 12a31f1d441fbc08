// Vectors of neighbouring channels: 16 bytes of memory, sums in float, and the end of a convolution
// (residual, activation, store) for all of them at once. Not for float64.
#pragma once

#include <type_traits>

#include "common.cuh"
#include "primitives.cuh"

namespace denoise_ext::cuda {

// Elements in 16 bytes: the widest access to memory.
template <class Storage>
constexpr int kVectorLanes = 16 / static_cast<int>(sizeof(Storage));

// The elements in one 32-bit word, as floats.
__device__ __forceinline__ void unpack_word(uint32_t word, float (&x)[1], float) {
  x[0] = __uint_as_float(word);
}
__device__ __forceinline__ void unpack_word(uint32_t word, float (&x)[2], Float16) {
  const float2 pair = from_float16_pair(word);
  x[0] = pair.x;
  x[1] = pair.y;
}
__device__ __forceinline__ void unpack_word(uint32_t word, float (&x)[2], BFloat16) {
  x[0] = __uint_as_float(word << 16);
  x[1] = __uint_as_float(word & 0xffff0000u);
}

__device__ __forceinline__ uint32_t pack_word(const float (&x)[1], float) {
  return __float_as_uint(x[0]);
}
__device__ __forceinline__ uint32_t pack_word(const float (&x)[2], Float16) {
  return to_float16_pair(x[0], x[1]);
}
__device__ __forceinline__ uint32_t pack_word(const float (&x)[2], BFloat16) {
  return to_bfloat16_pair(x[0], x[1]);
}

template <class Storage>
__device__ __forceinline__ void unpack(const uint4& vector, float (&x)[kVectorLanes<Storage>]) {
  const uint32_t words[4] = {vector.x, vector.y, vector.z, vector.w};
  constexpr int kPerWord = kVectorLanes<Storage> / 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float part[kPerWord];
    unpack_word(words[i], part, Storage{});
#pragma unroll
    for (int j = 0; j < kPerWord; ++j) x[i * kPerWord + j] = part[j];
  }
}

template <class Storage>
__device__ __forceinline__ uint4 pack(const float (&x)[kVectorLanes<Storage>]) {
  uint32_t words[4];
  constexpr int kPerWord = kVectorLanes<Storage> / 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float part[kPerWord];
#pragma unroll
    for (int j = 0; j < kPerWord; ++j) part[j] = x[i * kPerWord + j];
    words[i] = pack_word(part, Storage{});
  }
  return uint4{words[0], words[1], words[2], words[3]};
}

// The elements of g through the mask of an activation's gradient (ActivationMask), `saved` being its own.
template <class Storage>
__device__ __forceinline__ uint4 apply_mask(const uint4& g, const uint4& saved, float slope) {
  float x[kVectorLanes<Storage>], y[kVectorLanes<Storage>];
  unpack<Storage>(g, x);
  unpack<Storage>(saved, y);
#pragma unroll
  for (int i = 0; i < kVectorLanes<Storage>; ++i) x[i] = masked(x[i], y[i], slope);
  return pack<Storage>(x);
}

// c += a b for 16-bit elements; the layout of a, b and c is in primitives.cuh.
__device__ __forceinline__ void mma_16_bit(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                           Float16) {
  mma_m16n8k16_f16(c, a, b);
}
__device__ __forceinline__ void mma_16_bit(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                           BFloat16) {
  mma_m16n8k16_bf16(c, a, b);
}

// Which of 32 channels is column n (0 .. 7) of matrix j (0 .. 3) of b and c. In this order the columns
// that a lane holds of the four matrices are the 8 neighbouring channels 8 * (lane % 4) + 0 .. 7, one
// vector of 16-bit elements.
__device__ __forceinline__ int column_channel(int j, int n) {
  return n / 2 * 8 + j * 2 + n % 2;
}

// Calls f(Storage{}) for the floating-point types with a vector form.
template <class F>
int with_vector_storage(DType dtype, const F& f) {
  switch (dtype) {
    case DType::kFloat32: return f(float{});
    case DType::kBFloat16: return f(BFloat16{});
    case DType::kFloat16: return f(Float16{});
    default: return static_cast<int>(cudaErrorInvalidValue);
  }
}

// Bias (or 0) and slope of channels first .. first + count - 1, as floats in shared memory, by all
// threads of the block; a barrier must follow. Channels from p.output.size[1] on get 0.
template <class Storage>
__device__ __forceinline__ void load_channel_terms(const ConvParams& p, int64_t first, int count, float* bias,
                                                   float* slope) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
    const bool inside = first + i < p.output.size[1];
    bias[i] = inside && p.bias.data != nullptr ? channel_value<Storage, float>(p.bias, first + i) : 0.0f;
    slope[i] = inside ? negative_slope<Storage, float>(p, first + i) : 0.0f;
  }
}

template <int kCount>
__device__ __forceinline__ void activate_all(float (&v)[kCount], Activation activation, const float* slope) {
  switch (activation) {
    case Activation::kNone: break;
    case Activation::kRelu:
#pragma unroll
      for (int i = 0; i < kCount; ++i) v[i] = activate(v[i], Activation::kRelu, 0.0f);
      break;
    case Activation::kLeakyRelu:
    case Activation::kPrelu:
#pragma unroll
      for (int i = 0; i < kCount; ++i) v[i] = activate(v[i], Activation::kPrelu, slope[i]);
      break;
    case Activation::kSigmoid:
    case Activation::kTanh:
      // Long code, so it stands here once: the values take turns in v[0].
#pragma unroll 1
      for (int turn = 0; turn < kCount; ++turn) {
        const float first = activate(v[0], activation, 0.0f);
#pragma unroll
        for (int i = 0; i + 1 < kCount; ++i) v[i] = v[i + 1];
        v[kCount - 1] = first;
      }
      break;
  }
}

// Residual, activation and store of channels k .. k + lanes - 1 of output pixel (n, y, x), given the
// sums with the bias in them. `wide`: 16-byte accesses fit the output and the residual (wide_output()
// on the host); else one element at a time, and channels from `end` on are left out. slope: of channel k on.
template <class Storage>
__device__ __forceinline__ void finish_vector(const ConvParams& p, bool wide, const float* slope,
                                              float (&v)[kVectorLanes<Storage>], int64_t n, int64_t k,
                                              int64_t end, int64_t y, int64_t x) {
  constexpr int kLanes = kVectorLanes<Storage>;
  if (k >= end) return;
  float residual[kLanes];
  const bool before = p.residual_position == ResidualPosition::kBeforeActivation;
  if (p.residual.data != nullptr) {
    if (wide) {
      unpack<Storage>(*reinterpret_cast<const uint4*>(element<Storage>(p.residual, n, k, y, x)), residual);
    } else {
#pragma unroll
      for (int i = 0; i < kLanes; ++i)
        residual[i] = k + i < end ? to_acc<float>(*element<Storage>(p.residual, n, k + i, y, x)) : 0.0f;
    }
    if (before) {
#pragma unroll
      for (int i = 0; i < kLanes; ++i) v[i] += residual[i];
    }
  }
  activate_all(v, p.activation, slope);
  if (p.residual.data != nullptr && !before) {
#pragma unroll
    for (int i = 0; i < kLanes; ++i) v[i] += residual[i];
  }
  if (wide) {
    *reinterpret_cast<uint4*>(element<Storage>(p.output, n, k, y, x)) = pack<Storage>(v);
    return;
  }
#pragma unroll
  for (int i = 0; i < kLanes; ++i)
    if (k + i < end) *element<Storage>(p.output, n, k + i, y, x) = FromAcc<Storage>::convert(v[i]);
}

// The ends of vectors v[i] of channels k on at (n, y, x_of(i)), those beside the output left out. What a call
// ends with is decided once for all of them where it is common; else they take turns as v[0], so that the
// code of any end stands here once.
template <class Storage, int kCount, class X>
__device__ __forceinline__ void finish_vectors(const ConvParams& p, bool wide, const float* slope,
                                               float (&v)[kCount][kVectorLanes<Storage>], int64_t n,
                                               int64_t k, int64_t y, const X& x_of) {
  constexpr int kLanes = kVectorLanes<Storage>;
  if (k >= p.output.size[1] || y < 0 || y >= p.output.size[2]) return;
  const auto inside = [&](int64_t x) { return x >= 0 && x < p.output.size[3]; };
  const auto finish = [&](auto activation) {
    Storage* const row = element<Storage>(p.output, n, k, y, 0);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int64_t x = x_of(i);
      activate_all(v[i], decltype(activation)::value, slope);
      if (inside(x)) *reinterpret_cast<uint4*>(row + x * p.output.stride[3]) = pack<Storage>(v[i]);
    }
  };
  const bool long_code = p.activation == Activation::kSigmoid || p.activation == Activation::kTanh;
  if (wide && p.residual.data == nullptr && !long_code) {
    if (p.activation == Activation::kNone) {
      finish(std::integral_constant<Activation, Activation::kNone>{});
    } else if (p.activation == Activation::kRelu) {
      finish(std::integral_constant<Activation, Activation::kRelu>{});
    } else {
      finish(std::integral_constant<Activation, Activation::kPrelu>{});
    }
    return;
  }
#pragma unroll 1
  for (int turn = 0; turn < kCount; ++turn) {
    const int64_t x = x_of(turn);
    if (inside(x)) finish_vector<Storage>(p, wide, slope, v[0], n, k, p.output.size[1], y, x);
#pragma unroll
    for (int i = 0; i + 1 < kCount; ++i)
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) v[i][lane] = v[i + 1][lane];
  }
}

// One vector, with all channels of the output.
template <class Storage>
__device__ __forceinline__ void finish_vector(const ConvParams& p, bool wide, const float* slope,
                                              float (&v)[kVectorLanes<Storage>], int64_t n, int64_t k,
                                              int64_t y, int64_t x) {
  finish_vector<Storage>(p, wide, slope, v, n, k, p.output.size[1], y, x);
}

}  // namespace denoise_ext::cuda
