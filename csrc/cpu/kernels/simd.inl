// Vectors of the ISA that the including target has opened (GCC vector extensions: clang has them
// too, and the same source is NEON on aarch64). Included inside the target's anonymous namespace and
// target region, after `constexpr int kVectorBytes`, `kAccumulators` and `constexpr bool kX86`; includes
// nothing itself, because a header opened here would be compiled for this ISA alone.

template <class T>
struct VecOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
  typedef T unaligned __attribute__((vector_size(kVectorBytes), aligned(alignof(T)), may_alias));
};
template <class T>
using Vec = typename VecOf<T>::type;

template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <class T>
DENOISE_EXT_INLINE Vec<T> load(const T* from) {
  return *reinterpret_cast<const typename VecOf<T>::unaligned*>(from);
}
template <class T>
DENOISE_EXT_INLINE void store(T* to, Vec<T> value) {
  *reinterpret_cast<typename VecOf<T>::unaligned*>(to) = value;
}
template <class T>
DENOISE_EXT_INLINE Vec<T> broadcast(T value) {
  return value - Vec<T>{};  // folds to nothing, as adding zero (which changes -0) would not
}
template <class T>
DENOISE_EXT_INLINE Vec<T> maximum(Vec<T> a, Vec<T> b) {
  return a > b ? a : b;
}

// Lane i is lane order[i] of a, then b: order[i] counts on from a's last lane. A constant order is an
// instruction.
template <class V, class Order>
DENOISE_EXT_INLINE V shuffle(V a, V b, Order order) {
#if defined(__clang__)
  constexpr int kCount = sizeof(V) / sizeof(a[0]);
  V result{};
#pragma GCC unroll 64
  for (int i = 0; i < kCount; ++i) {
    const int place = static_cast<int>(order[i]);
    result[i] = place < kCount ? a[place] : b[place - kCount];
  }
  return result;
#else
  return __builtin_shuffle(a, b, order);
#endif
}

// Constants of exp() for one accumulation type.
template <class T>
struct ExpTraits;
template <>
struct ExpTraits<float> {
  using Int = int32_t;
  static constexpr int kMantissaBits = 23, kBias = 127, kDegree = 7;
  static constexpr float kRound = 12582912.0f;                // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float kLowest = -87.0f, kHighest = 88.0f;  // results stay normal and finite
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
};
template <>
struct ExpTraits<double> {
  using Int = int64_t;
  static constexpr int kMantissaBits = 52, kBias = 1023, kDegree = 13;
  static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kLowest = -708.0, kHighest = 709.0;
  static constexpr double kLn2High = 6.93147180369123816490e-01, kLn2Low = 1.90821492927058770002e-10;
};

// |x|
template <class T>
DENOISE_EXT_INLINE Vec<T> absolute(Vec<T> x) {
  using Int = typename ExpTraits<T>::Int;
  constexpr Int kSign = Int(1) << (8 * sizeof(T) - 1);
  return reinterpret_cast<Vec<T>>(reinterpret_cast<Vec<Int>>(x) & ~kSign);
}

// e^x. Range reduction x = n ln2 + r, |r| <= ln2 / 2, then the Taylor sum of e^r: its remainder
// (ln2/2)^(degree+1) / (degree+1)! is 5e-9 (float, degree 7) and 5e-18 (double, degree 13), below
// half a unit in the last place; measured error over the range: under 2 units. Below kLowest the
// result is 0, above kHighest it is e^kHighest; NaN stays NaN.
template <class T>
DENOISE_EXT_INLINE Vec<T> exp(Vec<T> x) {
  using Traits = ExpTraits<T>;
  using Int = typename Traits::Int;
  const Vec<T> low = broadcast<T>(Traits::kLowest), high = broadcast<T>(Traits::kHighest);
  const Vec<T> clamped = x < low ? low : (x > high ? high : x);
  const Vec<T> n = (clamped * T(1.4426950408889634) + Traits::kRound) - Traits::kRound;
  const Vec<T> r = (clamped - n * Traits::kLn2High) - n * Traits::kLn2Low;
  T inverse_factorial[Traits::kDegree + 1];
  inverse_factorial[0] = 1;
  for (int i = 1; i <= Traits::kDegree; ++i) inverse_factorial[i] = inverse_factorial[i - 1] / T(i);
  Vec<T> sum = broadcast<T>(inverse_factorial[Traits::kDegree]);
#pragma GCC unroll 16
  for (int i = Traits::kDegree - 1; i >= 0; --i) sum = sum * r + inverse_factorial[i];
  const Vec<Int> exponent = (__builtin_convertvector(n, Vec<Int>) + Int(Traits::kBias))
                            << Traits::kMantissaBits;
  const Vec<T> power = reinterpret_cast<Vec<T>>(exponent);
  return x < low ? Vec<T>{} : sum * power;
}

// Coefficients of 2^f on [-1/2, 1/2], constant first: minimax in the relative error (Remez exchange).
template <int kDegree>
struct Exp2Coefficients;
template <>
struct Exp2Coefficients<3> {  // relative error below 7.5e-5
  static constexpr float kValues[] = {0x1.fff692p-1f, 0x1.62f31ap-1f, 0x1.f0de1ap-3f, 0x1.c3f760p-5f};
};
template <>
struct Exp2Coefficients<4> {  // relative error below 2.8e-6, the sum's rounding included
  static constexpr float kValues[] = {0x1.ffffe8p-1f, 0x1.62e0dcp-1f, 0x1.ec06dap-3f, 0x1.ca1440p-5f,
                                      0x1.3997d6p-7f};
};

// Instructions of some targets alone. The functions are templates so that other targets, which do not
// know the builtins, never look at them (a macro such as __AVX512F__ does not follow `#pragma GCC target`).
constexpr bool kAvx512 = kVectorBytes == 64;
constexpr int kCurrentRounding = 4;  // of the builtins' last argument

// Keeps the compiler from loading a value again from memory wherever it is used.
template <class V>
DENOISE_EXT_INLINE V in_register(V value) {
  if constexpr (kX86) __asm__("" : DENOISE_EXT_VECTOR_REGISTER(value));
  return value;
}

// The compiler knows no more about the pointer than its value.
template <class T>
DENOISE_EXT_INLINE void opaque(const T*& pointer) {
  __asm__("" : "+r"(pointer));
}

// sqrt(x): GCC's own one sets errno, which keeps loops over it from becoming vectors.
template <class V>
DENOISE_EXT_INLINE V root(V x) {
#if defined(__clang__)
  return __builtin_elementwise_sqrt(x);
#else
  if constexpr (kX86 && sizeof(x[0]) == 4 && kVectorBytes == 64)
    return __builtin_ia32_sqrtps512_mask(x, x, 0xffff, kCurrentRounding);
  else if constexpr (kX86 && sizeof(x[0]) == 4 && kVectorBytes == 32)
    return __builtin_ia32_sqrtps256(x);
  else if constexpr (kX86 && sizeof(x[0]) == 4)
    return __builtin_ia32_sqrtps(x);
  V result{};
  for (int i = 0; i < kVectorBytes / static_cast<int>(sizeof(x[0])); ++i) result[i] = __builtin_sqrt(x[i]);
  return result;
#endif
}

// Pairs of neighbours summed, of `a` in the lower half and of `b` in the upper: [a0 + a1, ..., b0 + b1, ...].
template <class T>
DENOISE_EXT_INLINE Vec<T> add_neighbours(Vec<T> a, Vec<T> b) {
  using Int = typename ExpTraits<T>::Int;
  Vec<Int> even{};
  for (int i = 0; i < kLanes<T>; ++i) even[i] = 2 * i;
  return shuffle(a, b, even) + shuffle(a, b, even + 1);
}

// Lane i of the result is the sum over all lanes of rows[i].
template <class T>
DENOISE_EXT_INLINE Vec<T> sum_lanes(Vec<T> (&rows)[kLanes<T>]) {
#pragma GCC unroll 5
  for (int count = kLanes<T>; count > 1; count /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < count / 2; ++i) rows[i] = add_neighbours<T>(rows[2 * i], rows[2 * i + 1]);
  return rows[0];
}

// Vectors of as many elements of a smaller type.
template <class T, int kCount>
struct VecOfCount {
  typedef T type __attribute__((vector_size(kCount * sizeof(T))));
  typedef T unaligned __attribute__((vector_size(kCount * sizeof(T)), aligned(alignof(T)), may_alias));
};

// kVectorBytes / 2 bytes as 16-bit numbers.
DENOISE_EXT_INLINE Vec<uint16_t> load_widened(const uint8_t* from) {
  const auto bytes =
      *reinterpret_cast<const typename VecOfCount<uint8_t, kLanes<uint16_t>>::unaligned*>(from);
  return __builtin_convertvector(bytes, Vec<uint16_t>);
}
DENOISE_EXT_INLINE void store_narrowed(uint8_t* to, Vec<uint16_t> value) {
  using Bytes = VecOfCount<uint8_t, kLanes<uint16_t>>;
  *reinterpret_cast<typename Bytes::unaligned*>(to) = __builtin_convertvector(value, typename Bytes::type);
}

// Pairs (a[i], b[i]) of the lower (upper) half of each 16 bytes.
template <int kUpper>
DENOISE_EXT_INLINE Vec<int16_t> interleave(Vec<int16_t> a, Vec<int16_t> b) {
  Vec<uint16_t> order{};
#pragma GCC unroll 32
  for (int i = 0; i < kLanes<int16_t>; ++i)
    order[i] = static_cast<uint16_t>(i / 8 * 8 + 4 * kUpper + i % 8 / 2 + i % 2 * kLanes<int16_t>);
  return shuffle(a, b, order);
}
// The upper 16 bits of each sum, in the order from before interleave<0> and interleave<1>.
DENOISE_EXT_INLINE Vec<uint16_t> upper_halves(Vec<int32_t> lower, Vec<int32_t> upper) {
  Vec<uint16_t> order{};
#pragma GCC unroll 32
  for (int i = 0; i < kLanes<uint16_t>; ++i)
    order[i] = static_cast<uint16_t>(i / 8 * 8 + i % 4 * 2 + 1 + i % 8 / 4 * kLanes<uint16_t>);
  return shuffle(reinterpret_cast<Vec<uint16_t>>(lower), reinterpret_cast<Vec<uint16_t>>(upper), order);
}

// a[2 i] b[2 i] + a[2 i + 1] b[2 i + 1]
template <class V>
DENOISE_EXT_INLINE Vec<int32_t> multiply_add_pairs(V a, V b) {
  if constexpr (kAvx512) {
#if defined(__clang__)
    return __builtin_ia32_pmaddwd512(a, b);
#else
    return __builtin_ia32_pmaddwd512_mask(a, b, Vec<int32_t>{}, 0xffff);
#endif
  } else if constexpr (kX86 && kVectorBytes == 32) {
    return __builtin_ia32_pmaddwd256(a, b);
  } else if constexpr (kX86) {
    return __builtin_ia32_pmaddwd128(a, b);
  } else {
    const auto wide_a = reinterpret_cast<Vec<int32_t>>(a), wide_b = reinterpret_cast<Vec<int32_t>>(b);
    return (wide_a << 16 >> 16) * (wide_b << 16 >> 16) + (wide_a >> 16) * (wide_b >> 16);
  }
}

// The nearest integer to x; |x| < 2^22 where there is no instruction for it.
template <class V>
DENOISE_EXT_INLINE V round_exponent(V x) {
  if constexpr (kAvx512) return __builtin_ia32_rndscaleps_mask(x, 0, x, 0xffff, kCurrentRounding);
  return (x + ExpTraits<float>::kRound) - ExpTraits<float>::kRound;
}

// p 2^n for an integer n <= 0; n >= -125 where there is no instruction for it.
template <class V>
DENOISE_EXT_INLINE V scale_by_exponent(V p, V n) {
  if constexpr (kAvx512) return __builtin_ia32_scalefps512_mask(p, n, p, 0xffff, kCurrentRounding);
  return reinterpret_cast<V>(reinterpret_cast<Vec<int32_t>>(p) +
                             (__builtin_convertvector(n, Vec<int32_t>) << 23));
}

// x[i] = 2^x[i] for finite x <= 0, with the error of Exp2Coefficients; below 2^-125 it is a number
// between 0 and 2^-124. One step for all vectors, then the next: their latencies overlap.
template <int kDegree, int kVectors>
DENOISE_EXT_INLINE void exp2_of(Vec<float> (&x)[kVectors]) {
  constexpr auto& c = Exp2Coefficients<kDegree>::kValues;
  Vec<float> n[kVectors], sum[kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors && !kAvx512; ++v) x[v] = maximum<float>(x[v], broadcast<float>(-125.0f));
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) n[v] = round_exponent(x[v]);
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) x[v] -= n[v];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) sum[v] = x[v] * c[kDegree] + c[kDegree - 1];
#pragma GCC unroll 4
  for (int i = kDegree - 2; i >= 0; --i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[v] = sum[v] * x[v] + c[i];
  }
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) x[v] = scale_by_exponent(sum[v], n[v]);
}
