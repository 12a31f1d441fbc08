// The gradient of an activation over one strip of rows, with the channel sums for bias and PReLU.

// The gradient before the activation, from what the forward saved: the output, for PReLU the input.
// ReLU selects, as torch does: where the pixel is off, an infinite gradient becomes 0 and not NaN.
template <class T, Activation kActivation>
DENOISE_EXT_INLINE T activation_grad(T grad, T saved, T negative_slope) {
  switch (kActivation) {
    case Activation::kRelu: return saved <= 0 ? T(0) : grad;
    case Activation::kLeakyRelu:
    case Activation::kPrelu: return saved > 0 ? grad : grad * negative_slope;
    case Activation::kSigmoid: return grad * (saved * (1 - saved));
    case Activation::kTanh: return grad * (1 - saved * saved);
    default: return grad;
  }
}

// Where a row's values lie, and the distances of pixels in each tensor.
template <class Storage>
struct ActivationGradRow {
  const Storage *grad, *saved;
  Storage* result;  // nullptr: only the sums are wanted
  int64_t grad_step, saved_step, result_step;

  ActivationGradRow at(int64_t pixel, int64_t channel, const ActivationGradParams& p) const {
    return {grad + pixel * grad_step + channel * p.grad_output.stride[1],
            saved + pixel * saved_step + channel * p.saved.stride[1],
            result == nullptr ? nullptr : result + pixel * result_step + channel * p.grad_input.stride[1],
            grad_step,
            saved_step,
            result_step};
  }
};

template <class T>
struct ActivationGradSums {
  T bias[64], prelu[64];
};

// `count` values along one axis, one after the other (kUnit) or at the row's distances. Value i goes to
// sum i, which leaves the order of additions to no one and so lets the loop become vector code.
// The slope is one for all values, or (kSlopes) one for each.
template <class Storage, class T, Activation kActivation, bool kUnit, bool kSlopes>
DENOISE_EXT_INLINE void activation_grad_span(const ActivationGradRow<Storage>& row, int64_t count,
                                             const T* slope, ActivationGradSums<T>& sums) {
  const int64_t grad_step = kUnit ? 1 : row.grad_step, saved_step = kUnit ? 1 : row.saved_step;
  const int64_t result_step = kUnit ? 1 : row.result_step;
  const Storage *grad = row.grad, *saved = row.saved;
  Storage* __restrict__ result = row.result;
  T* __restrict__ bias = sums.bias;
  T* __restrict__ prelu = sums.prelu;
  for (int64_t i = 0; i < count; ++i) {
    const T g = load_as<T>(grad[i * grad_step]);
    const T s = kActivation == Activation::kNone ? T(0) : load_as<T>(saved[i * saved_step]);
    const T value = activation_grad<T, kActivation>(g, s, slope[kSlopes ? i : 0]);
    bias[i] += value;
    if (kActivation == Activation::kPrelu) prelu[i] += s > 0 ? T(0) : g * s;
    if (result != nullptr) result[i * result_step] = StoreAs<Storage>::from(value);
  }
}

// Adjacent channels: 64 of them at a time, over up to 64 pixels in the accumulation type, then in double.
template <class Storage, class T, Activation kActivation>
void activation_grad_channels(const ActivationGradPlan& plan, const ActivationGradRow<Storage>& row,
                              double* sums) {
  const ActivationGradParams& p = plan.params;
  const int64_t channels = p.grad_output.size[1], cols = p.grad_output.size[3];
  const T* slopes = static_cast<const T*>(plan.slopes);
  for (int64_t begin = 0; begin < cols; begin += 64) {
    const int64_t end = begin + 64 < cols ? begin + 64 : cols;
    for (int64_t c = 0; c < channels; c += 64) {
      const int64_t count = c + 64 < channels ? 64 : channels - c;
      ActivationGradSums<T> partial{};
      for (int64_t x = begin; x < end; ++x)
        activation_grad_span<Storage, T, kActivation, true, true>(row.at(x, c, p), count, slopes + c,
                                                                  partial);
      if (sums == nullptr) continue;
      for (int64_t i = 0; i < count; ++i) {
        sums[c + i] += static_cast<double>(partial.bias[i]);
        sums[channels + c + i] += static_cast<double>(partial.prelu[i]);
      }
    }
  }
}

constexpr int64_t kActivationGradPixels = 16;

template <class T>
using AdjacentGrad = void (*)(const ActivationGradRow<T>& row, int64_t count, const T* slope,
                              ActivationGradSums<T>& sums);

// At most kActivationGradPixels values at the row's distances, through copies side by side.
template <class Storage, class T>
void activation_grad_apart(const ActivationGradRow<Storage>& row, int64_t count, const T* slope,
                           ActivationGradSums<T>& sums, AdjacentGrad<T> adjacent) {
  T grad[kActivationGradPixels], saved[kActivationGradPixels], result[kActivationGradPixels];
  for (int64_t i = 0; i < count; ++i) grad[i] = load_as<T>(row.grad[i * row.grad_step]);
  if (row.saved != nullptr)
    for (int64_t i = 0; i < count; ++i) saved[i] = load_as<T>(row.saved[i * row.saved_step]);
  adjacent({grad, saved, row.result == nullptr ? nullptr : result, 1, 1, 1}, count, slope, sums);
  if (row.result != nullptr)
    for (int64_t i = 0; i < count; ++i) row.result[i * row.result_step] = StoreAs<Storage>::from(result[i]);
}

// One channel's pixels after the other, 64 of them in 16 sums.
template <class Storage, class T, class Some>
DENOISE_EXT_INLINE void activation_grad_pixels(const ActivationGradPlan& plan,
                                               const ActivationGradRow<Storage>& row, double* sums,
                                               const Some& some) {
  constexpr int64_t kSums = kActivationGradPixels;
  const ActivationGradParams& p = plan.params;
  const int64_t channels = p.grad_output.size[1], cols = p.grad_output.size[3];
  // In blocks of 64 pixels, so that every channel's stay in the first-level cache whatever the strides.
  for (int64_t begin = 0; begin < cols; begin += 64) {
    const int64_t end = begin + 64 < cols ? begin + 64 : cols;
    for (int64_t c = 0; c < channels; ++c) {
      ActivationGradSums<T> partial{};
      for (int64_t x = begin; x < end; x += kSums)
        some(row.at(x, c, p), x + kSums < end ? kSums : end - x, static_cast<const T*>(plan.slopes) + c,
             partial);
      if (sums == nullptr) continue;
      for (int64_t i = 0; i < kSums; ++i) {
        sums[c] += static_cast<double>(partial.bias[i]);
        sums[channels + c] += static_cast<double>(partial.prelu[i]);
      }
    }
  }
}

template <class Storage, class T, Activation kActivation, bool kUnit>
void activation_grad_typed_pixels(const ActivationGradPlan& plan, const ActivationGradRow<Storage>& row,
                                  double* sums) {
  activation_grad_pixels<Storage, T>(
      plan, row, sums,
      [](const ActivationGradRow<Storage>& some, int64_t count, const T* slope, ActivationGradSums<T>& to) {
        activation_grad_span<Storage, T, kActivation, kUnit, false>(some, count, slope, to);
      });
}

// Types of 16 bits at the row's distances: one for all activations, as converting takes the time.
template <class Storage, class T>
void activation_grad_apart_pixels(const ActivationGradPlan& plan, const ActivationGradRow<Storage>& row,
                                  double* sums, AdjacentGrad<T> adjacent) {
  activation_grad_pixels<Storage, T>(
      plan, row, sums,
      [=](const ActivationGradRow<Storage>& some, int64_t count, const T* slope, ActivationGradSums<T>& to) {
        activation_grad_apart(some, count, slope, to, adjacent);
      });
}

template <class Storage>
DENOISE_EXT_INLINE Storage* row_at(const Tensor4& tensor, int64_t n, int64_t y) {
  return static_cast<Storage*>(tensor.data) + n * tensor.stride[0] + y * tensor.stride[2];
}

template <class Storage, class T, Activation kActivation>
void activation_grad_rows(const ActivationGradPlan& plan, int64_t strip) {
  const ActivationGradParams& p = plan.params;
  const int64_t n = strip / plan.strips_per_image, first = strip % plan.strips_per_image * plan.strip_rows;
  double* sums = plan.partials == nullptr ? nullptr : plan.partials + strip * 2 * p.grad_output.size[1];
  const auto unit_stride = [&](int axis) {
    return p.grad_output.stride[axis] == 1 &&
           (kActivation == Activation::kNone || p.saved.stride[axis] == 1) &&
           (p.grad_input.data == nullptr || p.grad_input.stride[axis] == 1);
  };
  for (int64_t y = first; y < first + plan.strip_rows && y < p.grad_output.size[2]; ++y) {
    ActivationGradRow<Storage> row{};
    row.grad = row_at<Storage>(p.grad_output, n, y);
    row.grad_step = p.grad_output.stride[3];
    if (kActivation != Activation::kNone) {
      row.saved = row_at<Storage>(p.saved, n, y);
      row.saved_step = p.saved.stride[3];
    }
    if (p.grad_input.data != nullptr) {
      row.result = row_at<Storage>(p.grad_input, n, y);
      row.result_step = p.grad_input.stride[3];
    }
    if (unit_stride(1) && p.grad_output.size[1] > 1) {
      activation_grad_channels<Storage, T, kActivation>(plan, row, sums);
    } else if (unit_stride(3)) {
      activation_grad_typed_pixels<Storage, T, kActivation, true>(plan, row, sums);
    } else if constexpr (sizeof(Storage) == sizeof(T)) {
      activation_grad_typed_pixels<Storage, T, kActivation, false>(plan, row, sums);
    } else {
      activation_grad_apart_pixels<Storage, T>(plan, row, sums,
                                               activation_grad_span<T, T, kActivation, true, false>);
    }
  }
}

template <class Storage, class T>
void activation_grad_of(const ActivationGradPlan& plan, int64_t strip) {
  switch (plan.params.activation) {
    case Activation::kNone: return activation_grad_rows<Storage, T, Activation::kNone>(plan, strip);
    case Activation::kRelu: return activation_grad_rows<Storage, T, Activation::kRelu>(plan, strip);
    case Activation::kLeakyRelu: return activation_grad_rows<Storage, T, Activation::kLeakyRelu>(plan, strip);
    case Activation::kPrelu: return activation_grad_rows<Storage, T, Activation::kPrelu>(plan, strip);
    case Activation::kSigmoid: return activation_grad_rows<Storage, T, Activation::kSigmoid>(plan, strip);
    case Activation::kTanh: return activation_grad_rows<Storage, T, Activation::kTanh>(plan, strip);
    default: return;  // not by the output: the operator refuses it
  }
}

void activation_grad_strip(const ActivationGradPlan& plan, int64_t strip) {
  switch (plan.params.grad_output.dtype) {
    case DType::kFloat64: return activation_grad_of<double, double>(plan, strip);
    case DType::kBFloat16: return activation_grad_of<BFloat16, float>(plan, strip);
    case DType::kFloat16: return activation_grad_of<Float16, float>(plan, strip);
    default: return activation_grad_of<float, float>(plan, strip);
  }
}
