// Device helpers that every kernel file shares: element types, tensors by stride, borders, activations.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "../params/conv.h"
#include "../params/types.h"
#include "primitives.cuh"

namespace denoise_ext::cuda {

// 16-bit elements in memory. The headers of the toolkit's own types take longer to compile than a small
// kernel.
struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// Conversion between an element type in memory and the accumulation type (float; double for double).
template <class Acc>
__device__ __forceinline__ Acc to_acc(double x) {
  return static_cast<Acc>(x);
}
template <class Acc>
__device__ __forceinline__ Acc to_acc(float x) {
  return static_cast<Acc>(x);
}
template <class Acc>
__device__ __forceinline__ Acc to_acc(uint8_t x) {
  return static_cast<Acc>(x);
}
template <class Acc>
__device__ __forceinline__ Acc to_acc(Float16 x) {
  return static_cast<Acc>(from_float16(x.bits));
}
template <class Acc>
__device__ __forceinline__ Acc to_acc(BFloat16 x) {
  return static_cast<Acc>(__uint_as_float(static_cast<uint32_t>(x.bits) << 16));
}

template <class Storage>
struct FromAcc {
  template <class Acc>
  static __device__ __forceinline__ Storage convert(Acc x) {
    return static_cast<Storage>(x);
  }
};
template <>
struct FromAcc<Float16> {
  static __device__ __forceinline__ Float16 convert(float x) { return {to_float16(x)}; }
};
template <>
struct FromAcc<BFloat16> {
  static __device__ __forceinline__ BFloat16 convert(float x) { return {to_bfloat16(x)}; }
};
template <>
struct FromAcc<uint8_t> {
  // Rounded half to even and clamped; NaN becomes 0.
  static __device__ __forceinline__ uint8_t convert(float x) {
    return static_cast<uint8_t>(__float2int_rn(fminf(fmaxf(x, 0.0f), 255.0f)));
  }
};

// The type that sums of a storage type are kept in.
template <class Storage>
struct AccOf {
  using type = float;
};
template <>
struct AccOf<double> {
  using type = double;
};

// Calls f(Storage{}) with the element type that dtype names; uint8 only where kWithBytes.
template <bool kWithBytes = false, class F>
int with_storage(DType dtype, const F& f) {
  switch (dtype) {
    case DType::kFloat64: return f(double{});
    case DType::kBFloat16: return f(BFloat16{});
    case DType::kFloat16: return f(Float16{});
    case DType::kUInt8:
      if constexpr (kWithBytes) return f(uint8_t{});
      return static_cast<int>(cudaErrorInvalidValue);
    case DType::kFloat32: break;
  }
  return f(float{});
}

// The address of one element.
template <class Storage>
__device__ __forceinline__ Storage* element(const Tensor4& t, int64_t n, int64_t c, int64_t y, int64_t x) {
  return static_cast<Storage*>(t.data) + n * t.stride[0] + c * t.stride[1] + y * t.stride[2] +
         x * t.stride[3];
}

// The gradient g of an output of ReLU (slope 0) or leaky ReLU, before the activation. As in torch, ReLU
// selects, so that an infinite gradient becomes 0 and not NaN where the pixel is off, and a NaN in `saved`
// lets it pass.
template <class Acc>
__device__ __forceinline__ Acc masked(Acc g, Acc saved, Acc slope) {
  if (slope == Acc(0)) return saved <= Acc(0) ? Acc(0) : g;
  return saved > Acc(0) ? g : g * slope;
}

// Element (n, c, y, x) of a tensor, through the mask where there is one.
template <class Storage, class Acc>
__device__ __forceinline__ Acc masked_element(const Tensor4& t, const ActivationMask& mask, int64_t n,
                                              int64_t c, int64_t y, int64_t x) {
  const Acc g = to_acc<Acc>(*element<const Storage>(t, n, c, y, x));
  if (mask.saved.data == nullptr) return g;
  const Acc saved = to_acc<Acc>(*element<const Storage>(mask.saved, n, c, y, x));
  return to_acc<Acc>(FromAcc<Storage>::convert(masked(g, saved, static_cast<Acc>(mask.slope))));
}

// A value of a one-dimensional tensor; a single element stands for all.
template <class Storage, class Acc>
__device__ __forceinline__ Acc channel_value(const Tensor1& t, int64_t channel) {
  return to_acc<Acc>(static_cast<const Storage*>(t.data)[t.size == 1 ? 0 : channel * t.stride]);
}

// Where position i of an axis of length n is read when it lies outside, or -1 for "zero". Index: int64_t, or
// int (a fraction of the instructions) where i and 2 n surely fit.
template <class Index>
__device__ __forceinline__ Index border_index(Index i, Index n, Border border) {
  if (i >= 0 && i < n) return i;
  switch (border) {
    case Border::kConstant: return -1;
    case Border::kReplicate: return i < 0 ? 0 : n - 1;
    case Border::kCircular: {
      const Index r = i % n;
      return r < 0 ? r + n : r;
    }
    case Border::kReflect: break;
  }
  if (n == 1) return 0;
  const Index period = 2 * (n - 1);
  Index r = i % period;
  if (r < 0) r += period;
  return r < n ? r : period - r;
}

// NaN passes through every activation, as in torch.
template <class Acc>
__device__ __forceinline__ Acc activate(Acc x, Activation activation, Acc slope) {
  switch (activation) {
    case Activation::kRelu: return x < Acc(0) ? Acc(0) : x;
    case Activation::kLeakyRelu:
    case Activation::kPrelu: return x > Acc(0) ? x : x * slope;
    case Activation::kSigmoid: return Acc(1) / (Acc(1) + exp(-x));
    case Activation::kTanh: return tanh(x);
    default: return x;
  }
}

// The slope below zero that activate() takes: of leaky ReLU, or of the channel's PReLU.
template <class Storage, class Acc>
__device__ __forceinline__ Acc negative_slope(const ConvParams& p, int64_t channel) {
  return p.activation == Activation::kPrelu ? channel_value<Storage, Acc>(p.prelu_weight, channel)
                                            : static_cast<Acc>(p.negative_slope);
}

// Bias, residual and activation of one output, given the sum of its products.
template <class Storage, class Acc>
__device__ __forceinline__ Acc finish_output(const ConvParams& p, Acc sum, int64_t n, int64_t k, int64_t y,
                                             int64_t x) {
  if (p.bias.data != nullptr) sum += channel_value<Storage, Acc>(p.bias, k);
  const bool before = p.residual_position == ResidualPosition::kBeforeActivation;
  const Acc residual =
      p.residual.data != nullptr ? to_acc<Acc>(*element<Storage>(p.residual, n, k, y, x)) : Acc(0);
  if (before) sum += residual;
  sum = activate(sum, p.activation, negative_slope<Storage, Acc>(p, k));
  return before ? sum : sum + residual;
}

}  // namespace denoise_ext::cuda
