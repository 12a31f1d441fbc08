// Element types as they lie in memory, and their exact conversions to the accumulation types.
//
// Branch-free integer arithmetic, so that loops over these functions vectorise on every ISA; 16-bit
// results are rounded to nearest, ties to even, as torch does. They are force-inlined: each kernel
// gets a copy compiled for its own ISA.
#pragma once

#include <cstdint>

#include "../params/types.h"

namespace denoise_ext::cpu {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

#define DENOISE_EXT_INLINE inline __attribute__((always_inline))

template <class Acc>
DENOISE_EXT_INLINE Acc load_as(double x) {
  return static_cast<Acc>(x);
}
template <class Acc>
DENOISE_EXT_INLINE Acc load_as(float x) {
  return static_cast<Acc>(x);
}
template <class Acc>
DENOISE_EXT_INLINE Acc load_as(uint8_t x) {
  return static_cast<Acc>(x);
}
template <class Acc>
DENOISE_EXT_INLINE Acc load_as(BFloat16 x) {
  return static_cast<Acc>(__builtin_bit_cast(float, static_cast<uint32_t>(x.bits) << 16));
}
template <class Acc>
DENOISE_EXT_INLINE Acc load_as(Float16 x) {
  const uint32_t magnitude = x.bits & 0x7fffu;
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  // Reading the half's bits as a float's leaves the exponent 127 - 15 = 112 too small; multiplying
  // by 2^112 (0x77800000) mends that for subnormals too. Infinity and NaN keep an all-ones exponent.
  const float scaled = __builtin_bit_cast(float, magnitude << 13) * __builtin_bit_cast(float, 0x77800000u);
  const uint32_t finite = __builtin_bit_cast(uint32_t, scaled);
  const uint32_t special = (magnitude << 13) | 0x7f800000u;
  return static_cast<Acc>(__builtin_bit_cast(float, (magnitude >= 0x7c00u ? special : finite) | sign));
}

// store_as<Storage>(value)
template <class Storage>
struct StoreAs;

template <>
struct StoreAs<double> {
  static DENOISE_EXT_INLINE double from(double x) { return x; }
};
template <>
struct StoreAs<float> {
  static DENOISE_EXT_INLINE float from(float x) { return x; }
};
template <>
struct StoreAs<BFloat16> {
  static DENOISE_EXT_INLINE BFloat16 from(float x) {
    const uint32_t bits = __builtin_bit_cast(uint32_t, x);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    return {static_cast<uint16_t>(nan ? 0x7fc0u : rounded)};
  }
};
template <>
struct StoreAs<Float16> {
  static DENOISE_EXT_INLINE Float16 from(float x) {
    const uint32_t bits = __builtin_bit_cast(uint32_t, x);
    const uint32_t magnitude = bits & 0x7fffffffu;
    // Below 2^-14 the result is subnormal: adding 0.5, whose unit in the last place is 2^-24 like
    // the subnormals', rounds to it, and the sum's low bits are the answer.
    const uint32_t subnormal =
        __builtin_bit_cast(uint32_t, __builtin_bit_cast(float, magnitude) + 0.5f) - 0x3f000000u;
    // Otherwise rebias the exponent by 15 - 127 and round off 13 bits (0xfff + the lowest kept bit).
    const uint32_t normal = (magnitude + 0xc8000fffu + ((magnitude >> 13) & 1u)) >> 13;
    const uint32_t infinite = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
    return {static_cast<uint16_t>((magnitude >= 0x47800000u ? infinite : finite) | ((bits >> 16) & 0x8000u))};
  }
};
template <>
struct StoreAs<uint8_t> {
  // Averages of uint8 values are beyond 0 .. 255 by rounding errors at most, and integers are cheaper to
  // clamp. Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, ties to even.
  static DENOISE_EXT_INLINE uint8_t from(float x) {
    const int32_t nearest = static_cast<int32_t>((x + 12582912.0f) - 12582912.0f);
    const int32_t positive = nearest > 0 ? nearest : 0;
    return static_cast<uint8_t>(positive < 255 ? positive : 255);
  }
};

// What sums of a storage type are kept in (uint8 and 16-bit types: float32), and the bytes of an element.
constexpr DType accumulation_type(DType storage) {
  return storage == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
}
constexpr int64_t accumulation_bytes(DType storage) {
  return storage == DType::kFloat64 ? 8 : 4;
}

// Calls f with a value of the storage type that `dtype` names.
template <class F>
void with_storage(DType dtype, const F& f) {
  switch (dtype) {
    case DType::kFloat64: return f(double{});
    case DType::kBFloat16: return f(BFloat16{});
    case DType::kFloat16: return f(Float16{});
    case DType::kUInt8: return f(uint8_t{});
    case DType::kFloat32: return f(float{});
  }
}

}  // namespace denoise_ext::cpu
