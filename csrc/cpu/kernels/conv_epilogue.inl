// What follows the sums of a direct convolution: residual, activation, store.

// Any activation of `pixels` times `width` sums, in whole vectors.
template <class T>
DENOISE_EXT_INLINE void activate(const ConvParams& params, int64_t pixels, int64_t width,
                                 const T* prelu_slope, T* sums) {
  if (params.activation == Activation::kNone) return;
  if (is_long(params.activation)) return activate_long<T>(params.activation, sums, pixels * width);
  const T negative_slope = static_cast<T>(params.negative_slope);
  for (int64_t p = 0; p < pixels; ++p, sums += width)
    for (int64_t v = 0; v < width; v += kLanes<T>)
      store(sums + v, activate_short<T>(load(sums + v), params.activation, negative_slope, prelu_slope + v));
}

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
DENOISE_EXT_INLINE void apply_epilogue(const ConvParams& params, const OutputSpan& at, int64_t width,
                                       const T* prelu_slope, T* sums) {
  const bool before = params.residual_position == ResidualPosition::kBeforeActivation;
  const bool residual = params.residual.data != nullptr;
  if (residual && before) add_residual<Storage, T>(params.residual, at, width, sums);
  activate<T>(params, at.pixels, width, prelu_slope, sums);
  if (residual && !before) add_residual<Storage, T>(params.residual, at, width, sums);
}

// Finishes spans of outputs of type Storage, `kWidth` sums apart.
template <class Storage, class T, int kWidth>
__attribute__((noinline)) void finish(const ConvParams& params, const OutputSpan& at, const T* prelu_slope,
                                      T* sums) {
  apply_epilogue<Storage, T>(params, at, kWidth, prelu_slope, sums);
  store_span<Storage, T>(params.output, at, kWidth, sums);
}

// finish() for a type of output, so that the code that sums stands once for all of them.
template <class T>
using Finish = void (*)(const ConvParams& params, const OutputSpan& at, const T* prelu_slope, T* sums);

template <class T, int kWidth>
DENOISE_EXT_INLINE Finish<T> finish_as(DType dtype) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (dtype == DType::kFloat16) return finish<Float16, T, kWidth>;
    if (dtype == DType::kBFloat16) return finish<BFloat16, T, kWidth>;
  }
  return finish<T, T, kWidth>;
}

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

template <class T, int V>
DENOISE_EXT_INLINE void prefetch_row(const InPlaceRow<T>& row, int64_t pixels) {
#pragma GCC unroll 1
  for (int64_t p = 0; p < pixels; ++p)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      if (!row.stream) __builtin_prefetch(row.to + p * row.step + v * kLanes<T>, 1);
      if (row.residual != nullptr) __builtin_prefetch(row.residual + p * row.residual_step + v * kLanes<T>);
    }
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
