// CUDA's functions without synchronisation: arithmetic, bits, loads and stores with a cache hint.
// The approximate ones (__expf, ...) are exact here: tests must allow for the hardware's error.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

// ---- Loads and stores with a cache hint: the kernel's own accesses, so they are checked ----

#define CUDA_EMULATOR_LOAD(name)   \
  template <class T>               \
  inline T name(const T* source) { \
    return *source;                \
  }
CUDA_EMULATOR_LOAD(__ldg)
CUDA_EMULATOR_LOAD(__ldca)
CUDA_EMULATOR_LOAD(__ldcg)
CUDA_EMULATOR_LOAD(__ldcs)
CUDA_EMULATOR_LOAD(__ldlu)
CUDA_EMULATOR_LOAD(__ldcv)
#undef CUDA_EMULATOR_LOAD

#define CUDA_EMULATOR_STORE(name)                                        \
  template <class T>                                                     \
  inline void name(T* destination, const std::common_type_t<T>& value) { \
    *destination = value;                                                \
  }
CUDA_EMULATOR_STORE(__stwb)
CUDA_EMULATOR_STORE(__stcg)
CUDA_EMULATOR_STORE(__stcs)
CUDA_EMULATOR_STORE(__stwt)
#undef CUDA_EMULATOR_STORE

// ---- min and max: of mixed integers the common type, of floating point the number beside a NaN ----

template <class A, class B>
constexpr std::common_type_t<A, B> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) return std::fmax(static_cast<T>(a), static_cast<T>(b));
  return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(b) : static_cast<T>(a);
}
template <class A, class B>
constexpr std::common_type_t<A, B> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) return std::fmin(static_cast<T>(a), static_cast<T>(b));
  return static_cast<T>(b) < static_cast<T>(a) ? static_cast<T>(b) : static_cast<T>(a);
}

// ---- Arithmetic ----

inline float __expf(float x) {
  return std::exp(x);
}
inline float __exp10f(float x) {
  return std::pow(10.0f, x);
}
inline float __logf(float x) {
  return std::log(x);
}
inline float __log2f(float x) {
  return std::log2(x);
}
inline float __powf(float x, float y) {
  return std::pow(x, y);
}
inline float __sinf(float x) {
  return std::sin(x);
}
inline float __cosf(float x) {
  return std::cos(x);
}
inline float __tanhf(float x) {
  return std::tanh(x);
}
inline float __fdividef(float a, float b) {
  return a / b;
}
inline float __fdiv_rn(float a, float b) {
  return a / b;
}
inline float __frcp_rn(float a) {
  return 1.0f / a;
}
inline float __fsqrt_rn(float a) {
  return std::sqrt(a);
}
inline float __frsqrt_rn(float a) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(a)));
}
inline float __fadd_rn(float a, float b) {
  return a + b;
}
inline float __fsub_rn(float a, float b) {
  return a - b;
}
inline float __fmul_rn(float a, float b) {
  return a * b;
}
inline float __fmaf_rn(float a, float b, float c) {
  return std::fma(a, b, c);
}
inline double __dadd_rn(double a, double b) {
  return a + b;
}
inline double __dmul_rn(double a, double b) {
  return a * b;
}
inline double __fma_rn(double a, double b, double c) {
  return std::fma(a, b, c);
}
inline float __saturatef(float a) {
  return a > 0.0f ? (a < 1.0f ? a : 1.0f) : 0.0f;
}
inline float rsqrtf(float a) {
  return 1.0f / std::sqrt(a);
}
inline double rsqrt(double a) {
  return 1.0 / std::sqrt(a);
}

// ---- Conversions: NaN becomes 0 and what does not fit the nearest that does, as on the device ----

namespace cuda_emulator {
template <class T>
inline T saturate(double x) {
  if (!(x == x)) return 0;
  constexpr double kLow = static_cast<double>(std::numeric_limits<T>::min());
  constexpr double kHigh = static_cast<double>(std::numeric_limits<T>::max());
  return x <= kLow    ? std::numeric_limits<T>::min()
         : x >= kHigh ? std::numeric_limits<T>::max()
                      : static_cast<T>(x);
}
}  // namespace cuda_emulator

inline int __float2int_rn(float a) {
  return cuda_emulator::saturate<int>(std::nearbyint(a));
}
inline int __float2int_rd(float a) {
  return cuda_emulator::saturate<int>(std::floor(a));
}
inline int __float2int_ru(float a) {
  return cuda_emulator::saturate<int>(std::ceil(a));
}
inline int __float2int_rz(float a) {
  return cuda_emulator::saturate<int>(std::trunc(a));
}
inline unsigned __float2uint_rn(float a) {
  return cuda_emulator::saturate<unsigned>(std::nearbyint(a));
}
inline unsigned __float2uint_rz(float a) {
  return cuda_emulator::saturate<unsigned>(std::trunc(a));
}
inline int __double2int_rn(double a) {
  return cuda_emulator::saturate<int>(std::nearbyint(a));
}
inline float __double2float_rn(double a) {
  return static_cast<float>(a);
}
inline float __int2float_rn(int a) {
  return static_cast<float>(a);
}
inline float __uint2float_rn(unsigned a) {
  return static_cast<float>(a);
}

// ---- Bits ----

namespace cuda_emulator {
template <class To, class From>
inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}
}  // namespace cuda_emulator

inline float __uint_as_float(unsigned bits) {
  return cuda_emulator::bit_cast<float>(bits);
}
inline float __int_as_float(int bits) {
  return cuda_emulator::bit_cast<float>(bits);
}
inline unsigned __float_as_uint(float x) {
  return cuda_emulator::bit_cast<unsigned>(x);
}
inline int __float_as_int(float x) {
  return cuda_emulator::bit_cast<int>(x);
}
inline double __longlong_as_double(long long bits) {
  return cuda_emulator::bit_cast<double>(bits);
}
inline long long __double_as_longlong(double x) {
  return cuda_emulator::bit_cast<long long>(x);
}
inline int __popc(unsigned a) {
  return __builtin_popcount(a);
}
inline int __clz(int a) {
  return a == 0 ? 32 : __builtin_clz(static_cast<unsigned>(a));
}
inline int __ffs(int a) {
  return __builtin_ffs(a);
}
inline int __mulhi(int a, int b) {
  return static_cast<int>((static_cast<int64_t>(a) * b) >> 32);
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((static_cast<uint64_t>(a) * b) >> 32);
}
// Bytes of (high, low) chosen by the nibbles of `selector`; a nibble's top bit repeats the byte's sign.
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  const uint64_t bytes = static_cast<uint64_t>(high) << 32 | low;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned nibble = selector >> (4 * i) & 0xf;
    unsigned byte = static_cast<unsigned>(bytes >> (8 * (nibble & 7))) & 0xff;
    if (nibble & 8) byte = byte & 0x80 ? 0xff : 0;
    result |= byte << (8 * i);
  }
  return result;
}
