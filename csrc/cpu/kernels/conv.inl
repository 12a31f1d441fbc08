// Direct convolution over one tile: pack the input once, then sum taps with every output of a
// (pixels x channels) block in registers. Dense and depthwise, ordinary and transposed.

// ---- sums -----------------------------------------------------------------------------------------

// sums[P][V * lanes] = bias + sum over taps and input channels. `in` is the packed pixel of the first
// output, consecutive outputs are `pixel_step` elements apart; weight is [tap][channel][V * lanes].
template <class T, int P, int V>
DENOISE_EXT_INLINE void sum_dense(const T* in, int64_t pixel_step, const ConvTap* taps, int64_t tap_count,
                                  int64_t channels, const T* weight, const T* bias, T* sums) {
  Vec<T> acc[P][V];
#pragma GCC unroll 24
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[p][v] = load(bias + v * kLanes<T>);
  for (int64_t t = 0; t < tap_count; ++t) {
    const T* pixel = in + taps[t].offset;
#pragma GCC unroll 1
    for (int64_t c = 0; c < channels; ++c, weight += V * kLanes<T>) {
      Vec<T> w[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) w[v] = load(weight + v * kLanes<T>);
#pragma GCC unroll 24
      for (int p = 0; p < P; ++p) {
        const Vec<T> x = broadcast<T>(pixel[p * pixel_step + c]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[p][v] += x * w[v];
      }
    }
  }
#pragma GCC unroll 24
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(sums + (p * V + v) * kLanes<T>, acc[p][v]);
}

// The same with one input channel per output channel: weight is [tap][weight_stride].
template <class T, int P, int V>
DENOISE_EXT_INLINE void sum_depthwise(const T* in, int64_t pixel_step, const ConvTap* taps, int64_t tap_count,
                                      int64_t weight_stride, const T* weight, const T* bias, T* sums) {
  Vec<T> acc[P][V];
#pragma GCC unroll 24
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[p][v] = load(bias + v * kLanes<T>);
#pragma GCC unroll 1
  for (int64_t t = 0; t < tap_count; ++t, weight += weight_stride) {
    const T* pixel = in + taps[t].offset;
    Vec<T> w[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) w[v] = load(weight + v * kLanes<T>);
#pragma GCC unroll 24
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[p][v] += load(pixel + p * pixel_step + v * kLanes<T>) * w[v];
  }
#pragma GCC unroll 24
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(sums + (p * V + v) * kLanes<T>, acc[p][v]);
}

// ---- epilogue -------------------------------------------------------------------------------------

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
    case Activation::kTanh: {
      for (int i = 0; i < kLanes<T>; ++i) x[i] = std::tanh(x[i]);
      return x;
    }
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
DENOISE_EXT_INLINE void finish_span(const ConvParams& params, const OutputSpan& at, int64_t width,
                                    const T* prelu_slope, T* sums) {
  const bool before = params.residual_position == ResidualPosition::kBeforeActivation;
  const bool residual = params.residual.data != nullptr;
  if (residual && before) add_residual<Storage, T>(params.residual, at, width, sums);
  if (params.activation != Activation::kNone)
    for (int64_t p = 0; p < at.pixels; ++p)
      for (int64_t v = 0; v < width; v += kLanes<T>)
        store(sums + p * width + v, activate<T>(load(sums + p * width + v), params, prelu_slope + v));
  if (residual && !before) add_residual<Storage, T>(params.residual, at, width, sums);
  store_span<Storage, T>(params.output, at, width, sums);
}

// ---- one task -------------------------------------------------------------------------------------

template <class T>
struct ConvTask {
  const ConvPhase* phase;
  int64_t n, slice;            // slice: group, or channel block where depthwise
  int64_t i0, rows, j0, cols;  // outputs of the phase
  const T* packed;
  T* sums;
};

template <class Storage, class T, int V>
void conv_rows(const ConvPlan& plan, const ConvTask<T>& task, const ChannelBlock& block) {
  constexpr int kPixels = kAccumulators / V;
  constexpr int kWidth = V * kLanes<T>;
  const ConvParams& params = plan.params;
  const ConvPhase& phase = *task.phase;
  const ConvTap* taps = plan.taps.data() + phase.tap_begin;
  const int64_t group = plan.depthwise ? 0 : task.slice;
  const T* constants = static_cast<const T*>(plan.bias) + group * plan.padded_outputs + block.first;
  const T* slope = params.activation == Activation::kPrelu
                       ? static_cast<const T*>(plan.prelu_slope) + group * plan.padded_outputs + block.first
                       : nullptr;
  const int64_t total = plan.taps.size();
  const T* weight =
      static_cast<const T*>(plan.weight) +
      (plan.depthwise
           ? phase.tap_begin * plan.padded_outputs + block.first
           : ((group * total + phase.tap_begin) * plan.padded_outputs + phase.tap_count * block.first) *
                 plan.group_inputs);
  const int64_t left = plan.group_outputs - block.first;  // depthwise: group_outputs is all of them
  OutputSpan at{};
  at.n = task.n;
  at.channel = group * plan.group_outputs + block.first;
  at.channels = left < kWidth ? left : kWidth;
  at.x_step = plan.out_step[1];
  const int64_t row_step = plan.in_step[0] * plan.packed_cols * plan.packed_channels;
  const int64_t pixel_step = plan.in_step[1] * plan.packed_channels;
  for (int64_t r = 0; r < task.rows; ++r) {
    at.y = phase.out_y0 + (task.i0 + r) * plan.out_step[0];
    for (int64_t x = 0; x < task.cols; x += kPixels) {
      const T* in = task.packed + r * row_step + x * pixel_step;
      if (plan.depthwise) {
        sum_depthwise<T, kPixels, V>(in, pixel_step, taps, phase.tap_count, plan.padded_outputs, weight,
                                     constants, task.sums);
      } else {
        sum_dense<T, kPixels, V>(in, pixel_step, taps, phase.tap_count, plan.group_inputs, weight, constants,
                                 task.sums);
      }
      at.x = phase.out_x0 + (task.j0 + x) * plan.out_step[1];
      at.pixels = task.cols - x < kPixels ? task.cols - x : kPixels;
      finish_span<Storage, T>(params, at, kWidth, slope, task.sums);
    }
  }
}

template <class Storage, class T>
void conv_block(const ConvPlan& plan, const ConvTask<T>& task, const ChannelBlock& block) {
  switch (block.vectors) {
    case 1: return conv_rows<Storage, T, 1>(plan, task, block);
    case 2: return conv_rows<Storage, T, 2>(plan, task, block);
    default: break;
  }
  if constexpr (kAccumulators >= 24) {
    if (block.vectors == 3) return conv_rows<Storage, T, 3>(plan, task, block);
    return conv_rows<Storage, T, 4>(plan, task, block);
  }
}

template <class Storage, class T>
void conv_blocks(const ConvPlan& plan, const ConvTask<T>& task) {
  if (plan.depthwise) return conv_block<Storage, T>(plan, task, plan.blocks[task.slice]);
  for (const ChannelBlock& block : plan.blocks) conv_block<Storage, T>(plan, task, block);
}

template <class T>
void conv_task(const ConvPlan& plan, int64_t index, void* scratch) {
  ConvTask<T> task{};
  task.n = index / (plan.slices * plan.tasks_per_slice);
  task.slice = index / plan.tasks_per_slice % plan.slices;
  const int64_t local = index % plan.tasks_per_slice;
  size_t p = plan.phases.size() - 1;
  while (plan.phases[p].task_begin > local) --p;
  const ConvPhase& phase = plan.phases[p];
  task.phase = &phase;
  const int64_t tile = local - phase.task_begin;
  task.i0 = tile / phase.tiles_x * plan.tile_rows;
  task.j0 = tile % phase.tiles_x * plan.tile_cols;
  task.rows = phase.rows - task.i0 < plan.tile_rows ? phase.rows - task.i0 : plan.tile_rows;
  task.cols = phase.cols - task.j0 < plan.tile_cols ? phase.cols - task.j0 : plan.tile_cols;
  T* packed = static_cast<T*>(scratch);
  task.packed = packed;
  task.sums = packed + plan.packed_elements;

  if (phase.tap_count > 0) {
    const ConvParams& params = plan.params;
    PackWindow window{};
    window.n = task.n;
    window.y0 = task.i0 * plan.in_step[0] + phase.min_dy;
    window.rows = (task.rows - 1) * plan.in_step[0] + phase.max_dy - phase.min_dy + 1;
    window.x0 = task.j0 * plan.in_step[1] + phase.min_dx;
    window.cols = (task.cols - 1) * plan.in_step[1] + phase.max_dx - phase.min_dx + 1;
    window.first_channel = task.slice * plan.group_inputs;
    window.channels = plan.group_inputs;
    window.repeat = 1;
    window.border = params.border;
    if (plan.depthwise) {
      const ChannelBlock& block = plan.blocks[task.slice];
      const int64_t left = plan.group_outputs - block.first, width = block.vectors * kLanes<T>;
      window.first_channel = block.first;
      window.channels = left < width ? left : width;
      window.repeat = params.output.size[1] / params.input.size[1];
    }
    pack<T>(params.input, window, {plan.packed_cols, plan.packed_channels}, packed);
  }
  switch (plan.params.output.dtype) {
    case DType::kBFloat16:
      if constexpr (sizeof(T) == sizeof(float)) return conv_blocks<BFloat16, T>(plan, task);
      break;
    case DType::kFloat16:
      if constexpr (sizeof(T) == sizeof(float)) return conv_blocks<Float16, T>(plan, task);
      break;
    default: break;
  }
  conv_blocks<T, T>(plan, task);
}
