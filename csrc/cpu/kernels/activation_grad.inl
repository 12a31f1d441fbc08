// The gradient of an activation over one strip of rows, with the channel sums for bias and PReLU.

// d activation / d its input, from what the forward saved: the output, for PReLU the input.
template <class T>
DENOISE_EXT_INLINE T activation_slope(Activation activation, T saved, T negative_slope) {
  switch (activation) {
    case Activation::kRelu: return saved > 0 ? T(1) : T(0);
    case Activation::kLeakyRelu:
    case Activation::kPrelu: return saved > 0 ? T(1) : negative_slope;
    case Activation::kSigmoid: return saved * (1 - saved);
    case Activation::kTanh: return 1 - saved * saved;
    default: return T(1);
  }
}

template <class Storage>
DENOISE_EXT_INLINE Storage* pixel_at(const Tensor4& tensor, int64_t n, int64_t c, int64_t y) {
  return static_cast<Storage*>(tensor.data) + n * tensor.stride[0] + c * tensor.stride[1] +
         y * tensor.stride[2];
}

// Channel sums are taken over 64 values at a time in the accumulation type, then in double.
template <class Storage, class T, Activation kActivation>
void activation_grad_row(const ActivationGradPlan& plan, int64_t n, int64_t y, double* sums) {
  const ActivationGradParams& p = plan.params;
  const int64_t channels = p.grad_output.size[1], cols = p.grad_output.size[3];
  const bool keep = p.grad_input.data != nullptr;
  const int64_t grad_step = p.grad_output.stride[3], result_step = p.grad_input.stride[3];
  const int64_t saved_step = kActivation == Activation::kNone ? grad_step : p.saved.stride[3];
  // 64 pixels of every channel stay in the first-level cache whatever the layout is.
  for (int64_t begin = 0; begin < cols; begin += 64) {
    const int64_t end = begin + 64 < cols ? begin + 64 : cols;
    for (int64_t c = 0; c < channels; ++c) {
      const Storage* grad = pixel_at<Storage>(p.grad_output, n, c, y);
      const Storage* saved = kActivation == Activation::kNone ? grad : pixel_at<Storage>(p.saved, n, c, y);
      Storage* result = keep ? pixel_at<Storage>(p.grad_input, n, c, y) : nullptr;
      const T slope = kActivation == Activation::kPrelu ? static_cast<const T*>(plan.prelu_slope)[c]
                                                        : static_cast<T>(p.negative_slope);
      T bias_sum = 0, prelu_sum = 0;
      for (int64_t x = begin; x < end; ++x) {
        const T g = load_as<T>(grad[x * grad_step]), s = load_as<T>(saved[x * saved_step]);
        const T value = g * activation_slope<T>(kActivation, s, slope);
        bias_sum += value;
        if (kActivation == Activation::kPrelu) prelu_sum += s > 0 ? T(0) : g * s;
        if (keep) result[x * result_step] = StoreAs<Storage>::from(value);
      }
      if (sums != nullptr) {
        sums[c] += static_cast<double>(bias_sum);
        sums[channels + c] += static_cast<double>(prelu_sum);
      }
    }
  }
}

template <class Storage, class T>
void activation_grad_rows(const ActivationGradPlan& plan, int64_t strip) {
  const ActivationGradParams& p = plan.params;
  const int64_t channels = p.grad_output.size[1];
  const int64_t n = strip / plan.strips_per_image, first = strip % plan.strips_per_image * plan.strip_rows;
  double* sums = plan.partials == nullptr ? nullptr : plan.partials + strip * 2 * channels;
  const auto row_of = [&](int64_t y) {
    switch (p.activation) {
      case Activation::kNone: return activation_grad_row<Storage, T, Activation::kNone>(plan, n, y, sums);
      case Activation::kRelu: return activation_grad_row<Storage, T, Activation::kRelu>(plan, n, y, sums);
      case Activation::kLeakyRelu:
        return activation_grad_row<Storage, T, Activation::kLeakyRelu>(plan, n, y, sums);
      case Activation::kPrelu: return activation_grad_row<Storage, T, Activation::kPrelu>(plan, n, y, sums);
      case Activation::kSigmoid:
        return activation_grad_row<Storage, T, Activation::kSigmoid>(plan, n, y, sums);
      case Activation::kTanh: return activation_grad_row<Storage, T, Activation::kTanh>(plan, n, y, sums);
    }
  };
  for (int64_t y = first; y < first + plan.strip_rows && y < p.grad_output.size[2]; ++y) row_of(y);
}

void activation_grad_strip(const ActivationGradPlan& plan, int64_t strip) {
  switch (plan.params.grad_output.dtype) {
    case DType::kFloat64: return activation_grad_rows<double, double>(plan, strip);
    case DType::kBFloat16: return activation_grad_rows<BFloat16, float>(plan, strip);
    case DType::kFloat16: return activation_grad_rows<Float16, float>(plan, strip);
    default: return activation_grad_rows<float, float>(plan, strip);
  }
}
