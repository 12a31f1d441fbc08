// Vectors of the ISA that the including target has opened (GCC vector extensions: clang has them
// too, and the same source is NEON on aarch64). Included inside the target's anonymous namespace and
// target region, after `constexpr int kVectorBytes` and `constexpr int kAccumulators`; includes
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
