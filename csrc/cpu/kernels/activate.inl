// Activations. Those of a few instructions are applied where the sums are. The others are a second pass over
// values in the first-level cache, so that their code stands once.

// As many calls of the library's function as a vector has lanes, which would be most of a caller's code.
template <class T>
__attribute__((noinline)) Vec<T> tanh_of(Vec<T> x) {
  for (int i = 0; i < kLanes<T>; ++i) x[i] = std::tanh(x[i]);
  return x;
}

// 1 / (1 + e^-x), of e^-|x|: no overflow, and 0 at -infinity.
template <class T>
DENOISE_EXT_INLINE Vec<T> logistic(const Vec<T>& x) {
  const Vec<T> power = exp<T>(-absolute<T>(x));
  return (x < Vec<T>{} ? power : broadcast<T>(1)) / (T(1) + power);
}

// Phi(-t) e^(t^2 / 2) = u p(u) with u = 1 / (1 + kStep t), for Phi the distribution function of the normal
// distribution. p is minimax in the relative error for 0 <= t <= 13.3 (Lawson's iteration): below 5.1e-8.
// Beyond, exp(-t^2 / 2) is 0 here.
struct NormalTail {
  static constexpr float kStep = 0.28f;
  static constexpr float kValues[] = {0x1.c974dap-4f, 0x1.caf8e4p-4f,  0x1.9bbbeap-4f,
                                      0x1.7f8c22p-4f, 0x1.96f4f6p-5f,  0x1.a8c3ccp-6f,
                                      0x1.0bf3ecp-4f, -0x1.4cf710p-4f, 0x1.6e87ccp-6f};
};

// Phi(x). In float Phi(-t) is off by at most 8 + t^2 roundings of itself: 8 of the terms, and the exponent's
// counts t^2 times. That is at most 4 epsilon, at t = 0.
template <class T>
DENOISE_EXT_INLINE Vec<T> normal_distribution(Vec<T> x) {
  if constexpr (sizeof(T) == sizeof(double)) {
    for (int i = 0; i < kLanes<T>; ++i) x[i] = 0.5 * std::erfc(-0.70710678118654752440 * x[i]);
    return x;
  } else {
    constexpr auto& c = NormalTail::kValues;
    constexpr int kDegree = static_cast<int>(sizeof(c) / sizeof(c[0])) - 1;
    const Vec<T> t = absolute<T>(x), u = T(1) / (T(1) + NormalTail::kStep * t);
    Vec<T> sum = broadcast<T>(c[kDegree]);
#pragma GCC unroll 16
    for (int i = kDegree - 1; i >= 0; --i) sum = sum * u + c[i];
    const Vec<T> tail = sum * u * exp<T>(T(-0.5) * t * t);
    return x < Vec<T>{} ? tail : T(1) - tail;
  }
}

// x between 0 and `highest`; NaN stays NaN.
template <class T>
DENOISE_EXT_INLINE Vec<T> clamp_to(Vec<T> x, T highest) {
  const Vec<T> zero{}, high = broadcast<T>(highest);
  x = x < zero ? zero : x;
  return x > high ? high : x;
}

// Functions of a vector as types: GCC compiles a lambda of a template for the instructions in force where
// the template is instantiated.
struct Sigmoid {
  template <class T>
  static DENOISE_EXT_INLINE Vec<T> of(const Vec<T>& x) {
    return T(1) / (T(1) + exp<T>(-x));
  }
};
struct Tanh {
  template <class T>
  static DENOISE_EXT_INLINE Vec<T> of(const Vec<T>& x) {
    return tanh_of<T>(x);
  }
};
struct Gelu {
  template <class T>
  static DENOISE_EXT_INLINE Vec<T> of(const Vec<T>& x) {
    return x * normal_distribution<T>(x);
  }
};
struct GeluTanh {
  template <class T>
  static DENOISE_EXT_INLINE Vec<T> of(const Vec<T>& x) {  // 0.5 (1 + tanh(y / 2)) = logistic(y)
    return x * logistic<T>(T(1.5957691216057307118) * (x + T(0.044715) * x * x * x));
  }
};
struct Silu {
  template <class T>
  static DENOISE_EXT_INLINE Vec<T> of(const Vec<T>& x) {
    return x * logistic<T>(x);
  }
};
struct Hardswish {
  template <class T>
  static DENOISE_EXT_INLINE Vec<T> of(const Vec<T>& x) {
    return x * clamp_to<T>(x + T(3), T(6)) / T(6);
  }
};
struct Hardsigmoid {
  template <class T>
  static DENOISE_EXT_INLINE Vec<T> of(const Vec<T>& x) {
    return clamp_to<T>(x + T(3), T(6)) / T(6);
  }
};
struct Relu6 {
  template <class T>
  static DENOISE_EXT_INLINE Vec<T> of(const Vec<T>& x) {
    return clamp_to<T>(x, T(6));
  }
};

template <class Function, class T>
DENOISE_EXT_INLINE void replace_each(T* values, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes<T>)
    store(values + i, Function::template of<T>(load(values + i)));
}

// The activations that are long, of `count` values in whole vectors.
template <class T>
__attribute__((noinline)) void activate_long(Activation activation, T* values, int64_t count) {
  switch (activation) {
    case Activation::kSigmoid: return replace_each<Sigmoid>(values, count);
    case Activation::kTanh: return replace_each<Tanh>(values, count);
    case Activation::kGelu: return replace_each<Gelu>(values, count);
    case Activation::kGeluTanh: return replace_each<GeluTanh>(values, count);
    case Activation::kSilu: return replace_each<Silu>(values, count);
    case Activation::kHardswish: return replace_each<Hardswish>(values, count);
    case Activation::kHardsigmoid: return replace_each<Hardsigmoid>(values, count);
    case Activation::kRelu6: return replace_each<Relu6>(values, count);
    default: return;
  }
}

// The others; `prelu_slope` is read for PReLU alone.
template <class T>
DENOISE_EXT_INLINE Vec<T> activate_short(const Vec<T>& x, Activation activation, T negative_slope,
                                         const T* prelu_slope) {
  const Vec<T> zero{};
  switch (activation) {
    // Written so that NaN passes through, as in torch.
    case Activation::kRelu: return x < zero ? zero : x;
    case Activation::kLeakyRelu: return x > zero ? x : x * negative_slope;
    case Activation::kPrelu: return x > zero ? x : x * load(prelu_slope);
    default: return x;
  }
}
