// Direct convolution to at most four channels, such as a network's last layer.

// Adds to acc[p * K + k] what kRun taps side by side contribute to K outputs of P pixels: lanes run over
// the input channels (a dense block would leave all but K of them idle). A pixel is loaded once for all
// the taps that need it. weight is [tap][slice][K][lanes].
template <class T, int P, int K, int kRun>
DENOISE_EXT_INLINE void add_tap_run(const T* in, int64_t pixel_step, int64_t channels, const T* weight,
                                    Vec<T> (&acc)[kLanes<T>]) {
#pragma GCC unroll 1
  for (int64_t c = 0; c < channels; c += kLanes<T>) {
    Vec<T> w[kRun][K];
#pragma GCC unroll 3
    for (int t = 0; t < kRun; ++t)
#pragma GCC unroll 4
      for (int k = 0; k < K; ++k) w[t][k] = load(weight + (t * channels + c) * K + k * kLanes<T>);
#pragma GCC unroll 18
    for (int i = 0; i < P + kRun - 1; ++i) {
      const Vec<T> x = load(in + i * pixel_step + c);
#pragma GCC unroll 3
      for (int t = 0; t < kRun; ++t)
        if (i - t >= 0 && i - t < P)
#pragma GCC unroll 4
          for (int k = 0; k < K; ++k) acc[(i - t) * K + k] += x * w[t][k];
    }
  }
}

// All taps of one group of pixels, summed over the channels: lane p * K + k of the result.
template <class T, int P, int K>
DENOISE_EXT_INLINE Vec<T> sum_few_outputs(const GroupInput<T>& in, int64_t tap_count, int64_t channels,
                                          const T* weight) {
  constexpr int kRun = 3;
  Vec<T> acc[kLanes<T>] = {};
  for (int64_t t = 0; t < tap_count;) {
    const int64_t* at = in.offsets + t;
    if (t + kRun <= tap_count && at[1] - at[0] == in.pixel_step && at[2] - at[1] == in.pixel_step) {
      add_tap_run<T, P, K, kRun>(in.first + *at, in.pixel_step, channels, weight + t * channels * K, acc);
      t += kRun;
    } else {
      add_tap_run<T, P, K, 1>(in.first + *at, in.pixel_step, channels, weight + t * channels * K, acc);
      t += 1;
    }
  }
  return sum_lanes<T>(acc);
}

// The pixels of `at`, side by side in the output and in the residual.
template <class T>
DENOISE_EXT_INLINE void few_outputs_in_vector(const ConvParams& params, const OutputSpan& at, const T* slope,
                                              Vec<T> sums) {
  const auto address = [&](const Tensor4& x) {
    return static_cast<T*>(x.data) + at.n * x.stride[0] + at.y * x.stride[2] + at.x * x.stride[3];
  };
  const bool before = params.residual_position == ResidualPosition::kBeforeActivation;
  const bool residual = params.residual.data != nullptr;
  if (residual && before) sums += load(address(params.residual));
  sums = activate_short<T>(sums, params.activation, static_cast<T>(params.negative_slope), slope);
  if (residual && !before) sums += load(address(params.residual));
  store(address(params.output), sums);
}

template <class Storage, class T, int K>
void conv_few_outputs_rows(const ConvPlan& plan, const ConvTask<T>& task) {
  constexpr int kPixels = kLanes<T> / K;
  const ConvParams& params = plan.params;
  const ConvPhase& phase = *task.phase;
  const T* weight = static_cast<const T*>(plan.weight) + phase.tap_begin * plan.packed_channels * K;
  // Bias and slopes repeat for every pixel: tables of the lanes' own.
  Vec<T> bias{}, slope{};
  for (int i = 0; i < kPixels * K; ++i) {
    bias[i] = static_cast<const T*>(plan.bias)[i % K];
    slope[i] = static_cast<const T*>(plan.prelu_slope)[i % K];
  }
  store(task.sums + kLanes<T>, slope);
  const bool before = params.residual_position == ResidualPosition::kBeforeActivation;
  const bool residual = params.residual.data != nullptr;
  // Whether a vector of sums is a vector of the tensor.
  const auto is_dense = [&](const Tensor4& x) {
    return x.stride[3] * phase.out_step[1] == K && (K == 1 || x.stride[1] == 1);
  };
  const bool in_vectors = sizeof(Storage) == sizeof(T) && kPixels * K == kLanes<T> &&
                          !is_long(params.activation) && is_dense(params.output) &&
                          (!residual || is_dense(params.residual));
  OutputSpan at{};
  at.n = task.n;
  at.channels = K;
  at.x_step = phase.out_step[1];
  for (int64_t r = 0; r < task.rows; ++r) {
    at.y = phase.out_y0 + (task.i0 + r) * phase.out_step[0];
    for (int64_t x = 0; x < task.cols; x += kPixels) {
      const GroupInput<T> in = group_input<T>(plan, task, r, x);
      at.x = phase.out_x0 + (task.j0 + x) * phase.out_step[1];
      at.pixels = task.cols - x < kPixels ? task.cols - x : kPixels;
      const Vec<T> sums =
          bias + sum_few_outputs<T, kPixels, K>(in, phase.tap_count, plan.packed_channels, weight);
      if (in_vectors && at.pixels == kPixels) {
        few_outputs_in_vector<T>(params, at, task.sums + kLanes<T>, sums);
        continue;
      }
      store(task.sums, sums);
      if (residual && before) add_residual<Storage, T>(params.residual, at, K, task.sums);
      activate<T>(params, 1, kLanes<T>, task.sums + kLanes<T>, task.sums);
      if (residual && !before) add_residual<Storage, T>(params.residual, at, K, task.sums);
      store_span<Storage, T>(params.output, at, K, task.sums);
    }
  }
}

template <class Storage, class T>
void conv_few_outputs(const ConvPlan& plan, const ConvTask<T>& task) {
  switch (plan.group_outputs) {
    case 1: return conv_few_outputs_rows<Storage, T, 1>(plan, task);
    case 2: return conv_few_outputs_rows<Storage, T, 2>(plan, task);
    default: break;
  }
  if constexpr (kLanes<T> >= 4) {
    if (plan.group_outputs == 3) return conv_few_outputs_rows<Storage, T, 3>(plan, task);
    return conv_few_outputs_rows<Storage, T, 4>(plan, task);
  }
}

template <class T>
void conv_few_outputs_any(const ConvPlan& plan, const ConvTask<T>& task) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (plan.params.output.dtype == DType::kBFloat16) return conv_few_outputs<BFloat16, T>(plan, task);
    if (plan.params.output.dtype == DType::kFloat16) return conv_few_outputs<Float16, T>(plan, task);
  }
  conv_few_outputs<T, T>(plan, task);
}
