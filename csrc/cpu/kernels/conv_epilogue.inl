// What follows the sums of a direct convolution: residual, activation, store.

// One copy for all the places that call it: as many calls of the library's function as a vector has lanes
// would be most of their code.
template <class T>
__attribute__((noinline)) Vec<T> tanh_of(Vec<T> x) {
  for (int i = 0; i < kLanes<T>; ++i) x[i] = std::tanh(x[i]);
  return x;
}

template <class T>
DENOISE_EXT_INLINE Vec<T> activate(Vec<T> x, const ConvParams& params, const T* prelu_slope) {
  const Vec<T> zero{};
  switch (params.activation) {
    case Activation::kNone: return x;
    // Written so that NaN passes through, as in torch.
    case Activation::kRelu: return x < zero ? zero : x;
    case Activation::kLeakyRelu: return x > zero ? x : x * static_cast<T>(params.negative_slope);
    case Activation::kPrelu: return x > zero ? x : x * load(prelu_slope);
    case Activation::kSigmoid: return T(1) / (T(1) + exp<T>(-x));
    case Activation::kTanh: return tanh_of<T>(x);
  }
  return x;
}

// One row of outputs of one task: `pixels` outputs, `channels` real channels (the rest is padding).
struct OutputSpan {
  int64_t n, channel, y, x;  // of the first output
  int64_t x_step;            // distance of consecutive outputs, in pixels
  int64_t pixels, channels;
};

template <class Storage, class T>
DENOISE_EXT_INLINE void add_residual(const Tensor4& residual, const OutputSpan& at, int64_t width, T* sums) {
  const int64_t channel_stride = residual.stride[1], step = residual.stride[3] * at.x_step;
  const Storage* from = static_cast<const Storage*>(residual.data) + at.n * residual.stride[0] +
                        at.channel * channel_stride + at.y * residual.stride[2] + at.x * residual.stride[3];
  if (channel_stride == 1) {
    for (int64_t p = 0; p < at.pixels; ++p)
      for (int64_t c = 0; c < at.channels; ++c) sums[p * width + c] += load_as<T>(from[p * step + c]);
  } else {
    for (int64_t c = 0; c < at.channels; ++c)
      for (int64_t p = 0; p < at.pixels; ++p)
        sums[p * width + c] += load_as<T>(from[p * step + c * channel_stride]);
  }
}

template <class Storage, class T>
DENOISE_EXT_INLINE void store_span(const Tensor4& output, const OutputSpan& at, int64_t width,
                                   const T* sums) {
  const int64_t channel_stride = output.stride[1], step = output.stride[3] * at.x_step;
  Storage* to = static_cast<Storage*>(output.data) + at.n * output.stride[0] + at.channel * channel_stride +
                at.y * output.stride[2] + at.x * output.stride[3];
  if (channel_stride == 1) {
    for (int64_t p = 0; p < at.pixels; ++p)
      for (int64_t c = 0; c < at.channels; ++c)
        to[p * step + c] = StoreAs<Storage>::from(sums[p * width + c]);
  } else {
    for (int64_t c = 0; c < at.channels; ++c)
      for (int64_t p = 0; p < at.pixels; ++p)
        to[p * step + c * channel_stride] = StoreAs<Storage>::from(sums[p * width + c]);
  }
}

template <class Storage, class T>
DENOISE_EXT_INLINE void apply_epilogue(const ConvParams& params, const OutputSpan& at, int64_t width,
                                       const T* prelu_slope, T* sums) {
  const bool before = params.residual_position == ResidualPosition::kBeforeActivation;
  const bool residual = params.residual.data != nullptr;
  if (residual && before) add_residual<Storage, T>(params.residual, at, width, sums);
  if (params.activation != Activation::kNone)
    for (int64_t p = 0; p < at.pixels; ++p)
      for (int64_t v = 0; v < width; v += kLanes<T>)
        store(sums + p * width + v, activate<T>(load(sums + p * width + v), params, prelu_slope + v));
  if (residual && !before) add_residual<Storage, T>(params.residual, at, width, sums);
}

// Finishes spans of outputs of type Storage, `kWidth` sums apart. Both types of 16 bits share the code that
// sums: it calls this through a pointer.
struct SixteenBits {};

template <class Storage, class T, int kWidth>
struct Finish {
  explicit Finish(DType) {}
  static DENOISE_EXT_INLINE void call(const ConvParams& params, const OutputSpan& at, const T* prelu_slope,
                                      T* sums) {
    apply_epilogue<Storage, T>(params, at, kWidth, prelu_slope, sums);
    store_span<Storage, T>(params.output, at, kWidth, sums);
  }
};

template <class T, int kWidth>
struct Finish<SixteenBits, T, kWidth> {
  void (*call)(const ConvParams& params, const OutputSpan& at, const T* prelu_slope, T* sums);

  explicit Finish(DType dtype)
      : call(dtype == DType::kFloat16 ? Finish<Float16, T, kWidth>::call
                                      : Finish<BFloat16, T, kWidth>::call) {}
};

// A row of outputs that whole vectors can be written to straight from the registers: adjacent channels
// of the accumulation type, and an activation that is a maximum (ReLU; none is one with -infinity).
template <class T>
struct InPlaceRow {
  T* to;
  const T* residual;  // added before the activation; or nullptr
  int64_t step, residual_step;
  T lowest;
  bool stream;  // past the caches
};

template <class T>
DENOISE_EXT_INLINE InPlaceRow<T> in_place_row(const ConvPlan& plan, const OutputSpan& at) {
  const Tensor4 &output = plan.params.output, &residual = plan.params.residual;
  const auto address = [&](const Tensor4& x) {
    return static_cast<T*>(x.data) + at.n * x.stride[0] + at.channel + at.y * x.stride[2] +
           at.x * x.stride[3];
  };
  const bool relu = plan.params.activation == Activation::kRelu;
  return {address(output),
          residual.data == nullptr ? nullptr : address(residual),
          output.stride[3] * at.x_step,
          residual.stride[3] * at.x_step,
          relu ? T(0) : -static_cast<T>(__builtin_inf()),
          plan.stream};
}

template <class T, int P, int V>
DENOISE_EXT_INLINE void store_in_place(const InPlaceRow<T>& row, int64_t pixels, const Vec<T> (&sums)[P][V]) {
  const Vec<T> lowest = broadcast<T>(row.lowest);
#pragma GCC unroll 24
  for (int p = 0; p < P; ++p) {
    if (p >= pixels) break;
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      Vec<T> value = sums[p][v];
      if (row.residual != nullptr) value += load(row.residual + p * row.residual_step + v * kLanes<T>);
      value = value < lowest ? lowest : value;  // NaN passes through, as in torch
      T* to = row.to + p * row.step + v * kLanes<T>;
      if (row.stream) {
        store_past_caches(reinterpret_cast<float*>(to), reinterpret_cast<FloatVector>(value));
      } else {
        store(to, value);
      }
    }
  }
}
