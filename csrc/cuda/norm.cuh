// What the normalisations share: values as they lie in memory, the activation behind them, sums of a block.
#pragma once

#include <type_traits>

#include "../params/arithmetic.h"
#include "../params/limits.h"
#include "../params/norm.h"
#include "parts.cuh"
#include "vectors.cuh"
#include "wide_rows.h"

namespace denoise_ext::cuda {

// ---- kLanes neighbours: one element, or 16 bytes ----

template <class Storage, int kLanes>
using Packed = std::conditional_t<kLanes == 1, Storage, uint4>;

// Not through the cache of constants: the output may be the input.
template <class Storage, int kLanes>
__device__ __forceinline__ Packed<Storage, kLanes> load_packed(const Storage* from) {
  return *reinterpret_cast<const Packed<Storage, kLanes>*>(from);
}

template <class Storage, int kLanes, class Acc>
__device__ __forceinline__ void unpack_lanes(const Packed<Storage, kLanes>& packed, Acc (&x)[kLanes]) {
  if constexpr (kLanes == 1) {
    x[0] = to_acc<Acc>(packed);
  } else {
    unpack<Storage>(packed, x);
  }
}

template <class Storage, int kLanes, class Acc>
__device__ __forceinline__ void store_lanes(Storage* to, const Acc (&x)[kLanes]) {
  if constexpr (kLanes == 1) {
    *to = FromAcc<Storage>::convert(x[0]);
  } else {
    __stwb(reinterpret_cast<uint4*>(to), pack<Storage>(x));  // a plain store the compiler divides
  }
}

// A channel's weight or bias, `absent` where there is none.
template <class Storage, class Acc>
__device__ __forceinline__ Acc channel_term(const Tensor1& values, int64_t channel, Acc absent) {
  return values.data == nullptr
             ? absent
             : to_acc<Acc>(static_cast<const Storage*>(values.data)[channel * values.stride]);
}

template <class Acc, int kCount>
__device__ __forceinline__ void activate_lanes(Acc (&v)[kCount], const NormParams& p) {
  if (p.activation == Activation::kNone) return;
  if (!has_long_code(p.activation)) {
    const bool is_relu = p.activation == Activation::kRelu;
    const Acc slope = static_cast<Acc>(p.negative_slope);
#pragma unroll
    for (int i = 0; i < kCount; ++i)
      v[i] =
          is_relu ? activate(v[i], Activation::kRelu, slope) : activate(v[i], Activation::kLeakyRelu, slope);
    return;
  }
  // The code stands here once: the values take turns in v[0].
#pragma unroll 1
  for (int turn = 0; turn < kCount; ++turn) {
    const Acc first = activate_long(v[0], p.activation);
#pragma unroll
    for (int i = 0; i + 1 < kCount; ++i) v[i] = v[i + 1];
    v[kCount - 1] = first;
  }
}

// ---- Sums of values and of their squares, in double ----

struct Moments {
  double sum, squares;
};

// Neighbours that belong together. A few roundings in float32 are relative to their differences from each
// other, so a mean far from zero costs nothing. Few operations in double: most GPUs have few units for them.
template <int kLanes>
__device__ __forceinline__ void add_neighbours(Moments& to, const float (&x)[kLanes], double) {
  static_assert(kLanes > 1);
  float total = 0, rest = 0, squares = 0;
#pragma unroll
  for (int i = 0; i < kLanes; ++i) total += x[i];
  const float middle = total * (1.0f / kLanes);
#pragma unroll
  for (int i = 0; i < kLanes; ++i) {
    const float difference = x[i] - middle;
    rest += difference;
    squares += difference * difference;
  }
  const double exact = middle, sum = kLanes * exact;
  to.sum += sum + rest;
  to.squares += squares + exact * (sum + 2.0 * rest);
}
// Squares of float32 are exact. Squares of float64 are not: those are differences from `center`.
__device__ __forceinline__ void add_value(Moments& to, float x, double) {
  const double value = x;
  to.sum += value;
  to.squares += value * value;
}
__device__ __forceinline__ void add_value(Moments& to, double x, double center) {
  const double value = x - center;
  to.sum += value;
  to.squares += value * value;
}
template <class Acc, int kLanes>
__device__ __forceinline__ void add_lanes(Moments& to, const Acc (&x)[kLanes], double center) {
  if constexpr (kLanes == 1) {
    add_value(to, x[0], center);
  } else {
    add_neighbours(to, x, center);
  }
}

constexpr int kWarp = 32;

__device__ __forceinline__ Moments sum_over_warp(Moments mine) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    mine.sum += __shfl_xor_sync(0xffffffffu, mine.sum, offset);
    mine.squares += __shfl_xor_sync(0xffffffffu, mine.squares, offset);
  }
  return mine;
}

// The sums over a block of whole warps, for thread 0; in an order that the number of threads alone decides.
// `of_warps`: shared. All threads call it, and meet at a barrier before they call it again.
__device__ __forceinline__ Moments sum_over_block(Moments mine, Moments (&of_warps)[kWarp]) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  mine = sum_over_warp(mine);
  if (lane == 0) of_warps[warp] = mine;
  __syncthreads();
  if (warp != 0) return mine;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  return sum_over_warp(lane < warps ? of_warps[lane] : Moments{});
}

struct Statistics {
  double mean, factor;  // factor: 1 / sqrt(variance + eps)
};

// Of `count` values, given the sums of their differences from `center`.
__device__ __forceinline__ Statistics statistics_of(const Moments& sums, double count, double center,
                                                    double eps) {
  const double mean = sums.sum / count, variance = sums.squares / count - mean * mean;
  return {center + mean, 1.0 / sqrt((variance < 0 ? 0 : variance) + eps)};
}

// ---- Host ----

// The call with rows that lie one behind the other as one row: fewer of them end within a vector.
template <class Params>
Params with_long_rows(Params p) {
  const auto joins = [](const Tensor4& t) { return t.stride[2] == t.size[3] * t.stride[3]; };
  if (!joins(p.input) || !joins(p.output) || p.input.size[2] * p.input.size[3] > kLargestExtent) return p;
  for (Tensor4* t : {&p.input, &p.output}) {
    t->size[3] *= t->size[2];
    t->size[2] = 1;
    t->stride[2] = t->size[3] * t->stride[3];
  }
  return p;
}

template <class Condition>
bool both(const NormParams& p, const Condition& condition) {
  return condition(p.input) && condition(p.output);
}

inline int vector_lanes(DType dtype) {
  return static_cast<int>(16 / element_bytes(dtype));
}

// Blocks for so many pieces of work, enough to fill the device several times over; a loop in the kernel does
// the rest.
inline dim3 grid_for(int64_t pieces, const DeviceLimits& limits) {
  const int64_t most = 32 * static_cast<int64_t>(limits.multiprocessors);
  return dim3(static_cast<unsigned>(pieces < most ? pieces : most));
}

}  // namespace denoise_ext::cuda
