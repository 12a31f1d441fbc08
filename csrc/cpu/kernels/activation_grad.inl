// The gradient of an activation over one strip of rows, with the channel sums for bias and PReLU.

// The gradient before the activation, from what the forward saved: the output, for PReLU the input.
// ReLU selects, as torch does: where the pixel is off, an infinite gradient becomes 0 and not NaN.
template <class T, Activation kActivation>
DENOISE_EXT_INLINE Vec<T> activation_grad(Vec<T> grad, Vec<T> saved, Vec<T> negative_slope) {
  const Vec<T> zero{};
  switch (kActivation) {
    case Activation::kRelu: return saved <= zero ? zero : grad;
    case Activation::kLeakyRelu:
    case Activation::kPrelu: return saved > zero ? grad : grad * negative_slope;
    case Activation::kSigmoid: return grad * (saved * (T(1) - saved));
    case Activation::kTanh: return grad * (T(1) - saved * saved);
    default: return grad;
  }
}

struct ActivationGradSteps {
  int64_t grad, saved, result;
};

// Elements of the three tensors; the steps are the distances between them.
template <class Storage>
struct ActivationGradPointers {
  const Storage *grad, *saved;  // saved: nullptr where there is no activation
  Storage* result;              // nullptr: only the sums are wanted

  ActivationGradPointers at(int64_t index, const ActivationGradSteps& step) const {
    return {grad + index * step.grad, saved == nullptr ? nullptr : saved + index * step.saved,
            result == nullptr ? nullptr : result + index * step.result};
  }
};

template <class Storage>
struct ActivationGradLines {
  ActivationGradPointers<Storage> first;
  ActivationGradSteps value, line;  // from value to value, and from line to line
  int64_t lines, values;
};

// Value i of each line has slope i, and goes to sum i. Zero but for the slopes to begin with.
constexpr int64_t kLineValues = 64;
template <class T>
struct ActivationGradSums {
  T slopes[kLineValues], bias[kLineValues], prelu[kLineValues];
};

// `kVectors` vectors from value `at` of each line on.
template <class T, Activation kActivation, int kVectors>
DENOISE_EXT_INLINE void activation_grad_vectors(const ActivationGradLines<T>& l, int64_t at,
                                                ActivationGradSums<T>& sums) {
  constexpr bool kReadsSaved = kActivation != Activation::kNone, kPrelu = kActivation == Activation::kPrelu;
  ActivationGradPointers<T> to = l.first.at(at, {1, 1, 1});
  const Vec<T> zero{};
  Vec<T> slopes[kVectors], bias[kVectors], prelu[kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    slopes[v] = load(sums.slopes + at + v * kLanes<T>);
    bias[v] = load(sums.bias + at + v * kLanes<T>);
    if (kPrelu) prelu[v] = load(sums.prelu + at + v * kLanes<T>);
  }
  for (int64_t line = 0; line < l.lines; ++line) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const Vec<T> g = load(to.grad + v * kLanes<T>), s = kReadsSaved ? load(to.saved + v * kLanes<T>) : zero;
      const Vec<T> value = activation_grad<T, kActivation>(g, s, slopes[v]);
      bias[v] += value;
      if (kPrelu) prelu[v] += s > zero ? zero : g * s;
      if (to.result != nullptr) store(to.result + v * kLanes<T>, value);
    }
    to = to.at(1, l.line);
  }
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    store(sums.bias + at + v * kLanes<T>, bias[v]);
    if (kPrelu) store(sums.prelu + at + v * kLanes<T>, prelu[v]);
  }
}

// Lines of whole vectors, values side by side.
template <class T, Activation kActivation>
void activation_grad_lines(const ActivationGradLines<T>& l, ActivationGradSums<T>& sums) {
  int64_t at = 0;
  for (; at + 4 * kLanes<T> <= l.values; at += 4 * kLanes<T>)
    activation_grad_vectors<T, kActivation, 4>(l, at, sums);
  for (; at < l.values; at += kLanes<T>) activation_grad_vectors<T, kActivation, 1>(l, at, sums);
}

template <class T>
using ActivationGradKernel = void (*)(const ActivationGradLines<T>& lines, ActivationGradSums<T>& sums);

template <class T>
ActivationGradKernel<T> activation_grad_kernel(Activation activation) {
  switch (activation) {
    case Activation::kNone: break;
    case Activation::kRelu: return activation_grad_lines<T, Activation::kRelu>;
    case Activation::kLeakyRelu: return activation_grad_lines<T, Activation::kLeakyRelu>;
    case Activation::kPrelu: return activation_grad_lines<T, Activation::kPrelu>;
    case Activation::kSigmoid: return activation_grad_lines<T, Activation::kSigmoid>;
    case Activation::kTanh: return activation_grad_lines<T, Activation::kTanh>;
  }
  return activation_grad_lines<T, Activation::kNone>;
}

// Lines at any distances to or from copies that are `width` values apart. f(element, copy) copies one.
template <class Storage, class T, class F>
DENOISE_EXT_INLINE void copy_lines(Storage* at, int64_t value_step, int64_t line_step, int64_t lines,
                                   int64_t values, int64_t width, T* copies, const F& f) {
  if (value_step == 1 && line_step == values && width == values) {
    for (int64_t i = 0; i < lines * values; ++i) f(at[i], copies[i]);
    return;
  }
  for (int64_t line = 0; line < lines; ++line, at += line_step, copies += width) {
    if (value_step == 1) {
      for (int64_t i = 0; i < values; ++i) f(at[i], copies[i]);
    } else {
      for (int64_t i = 0; i < values; ++i) f(at[i * value_step], copies[i]);
    }
  }
}

// One line is folded: each of its vectors has the first one's slopes and sums.
template <class T>
ActivationGradLines<T> folded(const ActivationGradLines<T>& l) {
  return {l.first, {1, 1, 1}, {kLanes<T>, kLanes<T>, kLanes<T>}, l.values / kLanes<T>, kLanes<T>};
}

// Lines at any distances, through copies in the first-level cache. What fills up their last vectors adds
// nothing to a sum, whatever the slope.
template <class Storage, class T>
void activation_grad_copied(const ActivationGradLines<Storage>& l, bool fold, ActivationGradKernel<T> kernel,
                            ActivationGradSums<T>& sums) {
  constexpr int64_t kCopied = 8 * kLineValues;
  T grad[kCopied], saved[kCopied], result[kCopied];
  const auto widen = [](const Storage& from, T& to) { to = load_as<T>(from); };
  const auto narrow = [](Storage& to, const T& from) { to = StoreAs<Storage>::from(from); };
  const int64_t width = (l.values + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
  const int64_t most = kCopied / width;
  for (int64_t begin = 0; begin < l.lines; begin += most) {
    const int64_t lines = begin + most < l.lines ? most : l.lines - begin;
    const ActivationGradPointers<Storage> at = l.first.at(begin, l.line);
    copy_lines(at.grad, l.value.grad, l.line.grad, lines, l.values, width, grad, widen);
    if (at.saved != nullptr)
      copy_lines(at.saved, l.value.saved, l.line.saved, lines, l.values, width, saved, widen);
    for (int64_t line = 0; line < lines; ++line)
      for (int64_t i = line * width + l.values; i < (line + 1) * width; ++i) {
        grad[i] = 0;
        saved[i] = 1;
      }
    const ActivationGradPointers<T> copies{grad, at.saved == nullptr ? nullptr : saved,
                                           at.result == nullptr ? nullptr : result};
    const ActivationGradLines<T> copied{copies, {1, 1, 1}, {width, width, width}, lines, width};
    kernel(fold ? folded(copied) : copied, sums);
    if (at.result != nullptr)
      copy_lines(at.result, l.value.result, l.line.result, lines, l.values, width, result, narrow);
  }
}

// The sum of a vector's values, four additions at a time.
template <class T>
DENOISE_EXT_INLINE double sum_of_vector(const T* values) {
  constexpr int kChains = kLanes<T> < 4 ? kLanes<T> : 4;
  double sum[4] = {};
  for (int i = 0; i < kLanes<T>; i += kChains)
    for (int j = 0; j < kChains; ++j) sum[j] += static_cast<double>(values[i + j]);
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// A row of pixels in all channels.
template <class Storage, class T>
struct ActivationGradRow {
  const ActivationGradPlan& plan;
  ActivationGradKernel<T> kernel;
  ActivationGradPointers<Storage> first;
  ActivationGradSteps pixel, channel;
  double* sums;

  int64_t channels() const { return plan.params.grad_output.size[1]; }
  int64_t cols() const { return plan.params.grad_output.size[3]; }

  // Whether neighbours of an axis lie `distance` apart.
  bool apart(const ActivationGradSteps& step, int64_t distance) const {
    return step.grad == distance && (first.saved == nullptr || step.saved == distance) &&
           (first.result == nullptr || step.result == distance);
  }

  // Adds the sums of channels c .. c + count - 1, value `from` on.
  void add(const ActivationGradSums<T>& some, int64_t from, int64_t c, int64_t count) const {
    if (sums == nullptr) return;
    for (int64_t i = 0; i < count; ++i) sums[c + i] += static_cast<double>(some.bias[from + i]);
    if (plan.params.activation != Activation::kPrelu) return;
    for (int64_t i = 0; i < count; ++i) sums[channels() + c + i] += static_cast<double>(some.prelu[from + i]);
  }

  // Lines of `pixels` pixels from channel c on, side by side and whole vectors: up to 64 of them are summed
  // in the accumulation type, then all in double.
  void by_line(int64_t pixels, int64_t c, int64_t values) const {
    ActivationGradSums<T> some{};
    const int64_t count = values / pixels;
    for (int64_t i = 0; i < count; ++i) some.slopes[i] = static_cast<const T*>(plan.slopes)[c + i];
    for (int64_t i = count; i < values; ++i) some.slopes[i] = some.slopes[i - count];
    const ActivationGradSteps line{pixels * pixel.grad, pixels * pixel.saved, pixels * pixel.result};
    const int64_t all = cols() / pixels;
    for (int64_t begin = 0; begin < all; begin += 64) {
      const ActivationGradLines<Storage> l{
          first.at(c, channel).at(begin, line), {1, 1, 1}, line, begin + 64 < all ? 64 : all - begin, values};
      if constexpr (sizeof(Storage) == sizeof(T)) {
        kernel(l, some);
      } else {
        activation_grad_copied<Storage, T>(l, false, kernel, some);
      }
      for (int64_t from = 0; from < values; from += count) add(some, from, c, count);
      for (int64_t i = 0; i < values; ++i) some.bias[i] = some.prelu[i] = 0;
    }
  }

  // Pixels `x` on of channels `c` on, one channel's after the other's. In blocks of 64 pixels, so that every
  // channel's stay in the first-level cache whatever the strides.
  void by_channel(int64_t x, int64_t c) const {
    const bool in_place = sizeof(Storage) == sizeof(T) && apart(pixel, 1);
    for (int64_t begin = x; begin < cols(); begin += kLineValues) {
      const int64_t count = begin + kLineValues < cols() ? kLineValues : cols() - begin;
      const int64_t whole = in_place ? count / kLanes<T> * kLanes<T> : 0;
      for (int64_t k = c; k < channels(); ++k) {
        ActivationGradSums<T> some;
        store(some.slopes, broadcast<T>(static_cast<const T*>(plan.slopes)[k]));
        store(some.bias, Vec<T>{});
        store(some.prelu, Vec<T>{});
        const ActivationGradPointers<Storage> at = first.at(k, channel).at(begin, pixel);
        if constexpr (sizeof(Storage) == sizeof(T))
          if (whole > 0) kernel(folded<T>({at, pixel, {}, 1, whole}), some);
        if (whole < count)
          activation_grad_copied<Storage, T>({at.at(whole, pixel), pixel, {}, 1, count - whole}, true, kernel,
                                             some);
        if (sums == nullptr) continue;
        sums[k] += sum_of_vector(some.bias);
        if (plan.params.activation == Activation::kPrelu) sums[channels() + k] += sum_of_vector(some.prelu);
      }
    }
  }

  void all() const {
    if (!apart(channel, 1) || channels() == 1) return by_channel(0, 0);
    // A vector of several dense pixels.
    if (kLanes<T> % channels() == 0 && apart(pixel, channels())) {
      const int64_t pixels = kLanes<T> / channels();
      by_line(pixels, 0, kLanes<T>);
      return by_channel(cols() / pixels * pixels, 0);
    }
    const int64_t whole = channels() / kLanes<T> * kLanes<T>;
    for (int64_t c = 0; c < whole; c += kLineValues)
      by_line(1, c, c + kLineValues < whole ? kLineValues : whole - c);
    by_channel(0, whole);
  }
};

template <class Storage>
DENOISE_EXT_INLINE Storage* row_at(const Tensor4& tensor, int64_t n, int64_t y) {
  return tensor.data == nullptr
             ? nullptr
             : static_cast<Storage*>(tensor.data) + n * tensor.stride[0] + y * tensor.stride[2];
}

template <class Storage, class T>
void activation_grad_rows(const ActivationGradPlan& plan, int64_t strip) {
  const ActivationGradParams& p = plan.params;
  const int64_t n = strip / plan.strips_per_image, begin = strip % plan.strips_per_image * plan.strip_rows;
  double* sums = plan.partials == nullptr ? nullptr : plan.partials + strip * 2 * p.grad_output.size[1];
  const bool reads_saved = p.activation != Activation::kNone;
  const auto steps = [&](int axis) {
    return ActivationGradSteps{p.grad_output.stride[axis], p.saved.stride[axis], p.grad_input.stride[axis]};
  };
  for (int64_t y = begin; y < begin + plan.strip_rows && y < p.grad_output.size[2]; ++y) {
    const ActivationGradPointers<Storage> first{row_at<Storage>(p.grad_output, n, y),
                                                reads_saved ? row_at<Storage>(p.saved, n, y) : nullptr,
                                                row_at<Storage>(p.grad_input, n, y)};
    ActivationGradRow<Storage, T>{plan, activation_grad_kernel<T>(p.activation), first, steps(3), steps(1),
                                  sums}
        .all();
  }
}

void activation_grad_strip(const ActivationGradPlan& plan, int64_t strip) {
  switch (plan.params.grad_output.dtype) {
    case DType::kFloat64: return activation_grad_rows<double, double>(plan, strip);
    case DType::kBFloat16: return activation_grad_rows<BFloat16, float>(plan, strip);
    case DType::kFloat16: return activation_grad_rows<Float16, float>(plan, strip);
    default: return activation_grad_rows<float, float>(plan, strip);
  }
}
