// Direct convolution over one tile: sum taps with every output of a (pixels x channels) block in
// registers, from the image itself or from a packed copy. Dense and depthwise, ordinary and transposed.

// ---- sums -----------------------------------------------------------------------------------------

// acc[P][V] = bias + sum over taps and input channels. `in` is the pixel of the first output's first
// tap, offsets[tap] where the tap's is from there, consecutive outputs are `pixel_step` elements apart;
// weight is [tap][channel][V * lanes].
template <class T, int P, int V>
DENOISE_EXT_INLINE void sum_dense(const T* in, int64_t pixel_step, const int64_t* offsets, int64_t tap_count,
                                  int64_t channels, const T* weight, const T* bias, Vec<T> (&acc)[P][V]) {
#pragma GCC unroll 24
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[p][v] = load(bias + v * kLanes<T>);
  for (int64_t t = 0; t < tap_count; ++t) {
    // Multiples of pixel_step up to 7 fit the registers for addresses, 23 do not.
    const T* pixel[(P + 7) / 8];
#pragma GCC unroll 3
    for (int i = 0; i < (P + 7) / 8; ++i) {
      pixel[i] = in + offsets[t] + 8 * i * pixel_step;
      opaque(pixel[i]);
    }
#pragma GCC unroll 1
    for (int64_t c = 0; c < channels; ++c, weight += V * kLanes<T>) {
      Vec<T> w[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) w[v] = load(weight + v * kLanes<T>);
#pragma GCC unroll 24
      for (int p = 0; p < P; ++p) {
        const Vec<T> x = broadcast<T>(pixel[p / 8][p % 8 * pixel_step + c]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[p][v] += x * w[v];
      }
    }
  }
}

// The same with one input channel per output channel: weight is [tap][weight_stride].
template <class T, int P, int V>
DENOISE_EXT_INLINE void sum_depthwise(const T* in, int64_t pixel_step, const int64_t* offsets,
                                      int64_t tap_count, int64_t weight_stride, const T* weight,
                                      const T* bias, Vec<T> (&acc)[P][V]) {
#pragma GCC unroll 24
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[p][v] = load(bias + v * kLanes<T>);
#pragma GCC unroll 1
  for (int64_t t = 0; t < tap_count; ++t, weight += weight_stride) {
    const T* pixel = in + offsets[t];
    Vec<T> w[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) w[v] = load(weight + v * kLanes<T>);
#pragma GCC unroll 24
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[p][v] += load(pixel + p * pixel_step + v * kLanes<T>) * w[v];
  }
}

template <class T, int P, int V>
DENOISE_EXT_INLINE void store_sums(const Vec<T> (&acc)[P][V], T* sums) {
#pragma GCC unroll 24
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(sums + (p * V + v) * kLanes<T>, acc[p][v]);
}

// A gate's sums, activated: they wait in the first-level cache for those that they are multiplied with.
template <class T, int P, int V>
DENOISE_EXT_INLINE void keep_gate(const ConvPlan& plan, const Vec<T> (&acc)[P][V], T* sums) {
  store_sums<T>(acc, sums);
  activate_long<T>(plan.params.gate.activation, sums, P * V * kLanes<T>);
}

template <class T, int P, int V>
DENOISE_EXT_INLINE void multiply_by_gate(const T* sums, Vec<T> (&acc)[P][V]) {
#pragma GCC unroll 24
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[p][v] *= load(sums + (p * V + v) * kLanes<T>);
}

// One output at pixel (y, x) of its first tap's coordinates: taps that read outside the image add nothing.
template <class T, int V>
DENOISE_EXT_INLINE void sum_depthwise_at_border(const ConvPlan& plan, const ConvPhase& phase, const T* image,
                                                int64_t y, int64_t x, const T* weight, const T* bias,
                                                Vec<T> (&acc)[1][V]) {
  const Tensor4& input = plan.params.input;
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) acc[0][v] = load(bias + v * kLanes<T>);
  const ConvTap* tap = plan.taps.data() + phase.tap_begin;
#pragma GCC unroll 1
  for (int64_t t = 0; t < phase.tap_count; ++t, ++tap, weight += plan.padded_outputs) {
    const int64_t row = y + tap->dy, col = x + tap->dx;
    if (row < 0 || row >= input.size[2] || col < 0 || col >= input.size[3]) continue;
    const T* pixel = image + row * input.stride[2] + col * input.stride[3];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[0][v] += load(pixel + v * kLanes<T>) * load(weight + v * kLanes<T>);
  }
}

// ---- one task -------------------------------------------------------------------------------------

template <class T, int V>
void conv_rows(const ConvPlan& plan, const ConvTask<T>& task, const ChannelBlock& block) {
  constexpr int kPixels = kAccumulators / V;
  constexpr int kWidth = V * kLanes<T>;
  const ConvParams& params = plan.params;
  const ConvPhase& phase = *task.phase;
  const int64_t group = plan.depthwise ? 0 : task.slice;
  const int64_t first_constant = group * plan.padded_outputs + block.first;
  const T* const constants[2] = {static_cast<const T*>(plan.bias) + first_constant,
                                 static_cast<const T*>(plan.gate_bias) + first_constant};
  const T* slope = params.activation == Activation::kPrelu
                       ? static_cast<const T*>(plan.prelu_slope) + group * plan.padded_outputs + block.first
                       : nullptr;
  const int64_t total = plan.taps.size();
  const int64_t first_weight =
      plan.depthwise
          ? phase.tap_begin * plan.padded_outputs + block.first
          : ((group * total + phase.tap_begin) * plan.padded_outputs + phase.tap_count * block.first) *
                plan.group_inputs;
  const T* const weight[2] = {static_cast<const T*>(plan.weight) + first_weight,
                              static_cast<const T*>(plan.gate_weight) + first_weight};
  const int64_t left = plan.group_outputs - block.first;  // depthwise: group_outputs is all of them
  OutputSpan at{};
  at.n = task.n;
  at.channel = group * plan.group_outputs + block.first;
  at.channels = left < kWidth ? left : kWidth;
  at.x_step = phase.out_step[1];
  const bool in_place = plan.in_place_output && at.channels == kWidth;
  const Finish<T> finish_sums = finish_as<T, kWidth>(params.output.dtype);
  for (int64_t r = 0; r < task.rows; ++r) {
    at.y = phase.out_y0 + (task.i0 + r) * phase.out_step[0];
    for (int64_t x = 0; x < task.cols; x += kPixels) {
      const GroupInput<T> in = group_input<T>(plan, task, r, x);
      Vec<T> acc[kPixels][V];
      if (plan.depthwise) {
        sum_depthwise<T>(in.first, in.pixel_step, in.offsets, phase.tap_count, plan.padded_outputs, weight[0],
                         constants[0], acc);
      } else {
#pragma GCC unroll 1
        for (int side = plan.sides - 1; side >= 0; --side) {
          sum_dense<T>(in.first, in.pixel_step, in.offsets, phase.tap_count, plan.group_inputs, weight[side],
                       constants[side], acc);
          if (side == 1) keep_gate<T>(plan, acc, task.sums);
        }
        if (plan.sides == 2) multiply_by_gate<T>(task.sums, acc);
      }
      at.x = phase.out_x0 + (task.j0 + x) * phase.out_step[1];
      at.pixels = task.cols - x < kPixels ? task.cols - x : kPixels;
      if (in_place) {
        store_in_place<T>(in_place_row<T>(plan, at), at.pixels, acc);
      } else {
        store_sums<T>(acc, task.sums);
        finish_sums(params, at, slope, task.sums);
      }
    }
  }
}

// All phases, kPhases at a time, of a tile: their one tap is the same pixel, so that each pixel is multiplied
// with the weights of several phases, as if these were further filters.
template <class T, int V, int kPhases>
void conv_phases(const ConvPlan& plan, const ConvTask<T>& task) {
  constexpr int kPixels = kAccumulators / (V * kPhases), kWidth = V * kLanes<T>;
  const T* bias = static_cast<const T*>(plan.bias);
  const int64_t weight_step = plan.padded_outputs * plan.group_inputs;  // from phase to phase
  for (int64_t r = 0; r < task.rows; ++r) {
    const T* weight = static_cast<const T*>(plan.weight);
    for (size_t i = 0; i < plan.phases.size(); i += kPhases, weight += kPhases * weight_step) {
      for (int64_t x = 0; x < task.cols; x += kPixels) {
        const int64_t pixels = task.cols - x < kPixels ? task.cols - x : kPixels;
        const GroupInput<T> in = group_input<T>(plan, task, r, x);
        InPlaceRow<T> rows[kPhases];
        Vec<T> acc[kPhases][kPixels][V];
#pragma GCC unroll 4
        for (int k = 0; k < kPhases; ++k) {
          const ConvPhase& phase = plan.phases[i + static_cast<size_t>(k)];
          OutputSpan at{};
          at.n = task.n;
          at.y = phase.out_y0 + (task.i0 + r) * phase.out_step[0];
          at.x = phase.out_x0 + (task.j0 + x) * phase.out_step[1];
          at.x_step = phase.out_step[1];
          rows[k] = in_place_row<T>(plan, at);
          prefetch_row<T, V>(rows[k], pixels);
#pragma GCC unroll 24
          for (int p = 0; p < kPixels; ++p)
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) acc[k][p][v] = load(bias + v * kLanes<T>);
        }
        const T *pixel = in.first + in.offsets[0], *from = weight;
#pragma GCC unroll 1
        for (int64_t c = 0; c < plan.group_inputs; ++c, from += kWidth) {
          Vec<T> w[kPhases][V];
#pragma GCC unroll 4
          for (int k = 0; k < kPhases; ++k)
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) w[k][v] = load(from + k * weight_step + v * kLanes<T>);
#pragma GCC unroll 24
          for (int p = 0; p < kPixels; ++p) {
            const Vec<T> value = broadcast<T>(pixel[p * in.pixel_step + c]);
#pragma GCC unroll 4
            for (int k = 0; k < kPhases; ++k)
#pragma GCC unroll 4
              for (int v = 0; v < V; ++v) acc[k][p][v] += value * w[k][v];
          }
        }
#pragma GCC unroll 4
        for (int k = 0; k < kPhases; ++k) store_in_place<T>(rows[k], pixels, acc[k]);
      }
    }
  }
}

template <class T>
void conv_phases_any(const ConvPlan& plan, const ConvTask<T>& task) {
  const int vectors = plan.blocks.front().vectors;
  if constexpr (kAccumulators >= 24) {
    if (vectors == 2) return conv_phases<T, 2, 2>(plan, task);
    if (plan.phases_at_once == 4) return conv_phases<T, 1, 4>(plan, task);
  }
  conv_phases<T, 1, 2>(plan, task);
}

// Outputs of a row whose taps all read columns of the image: [begin, end) of the task's.
struct InnerCols {
  int64_t begin, end;
};

template <class T>
DENOISE_EXT_INLINE InnerCols inner_cols(const ConvPlan& plan, const ConvTask<T>& task) {
  const ConvPhase& phase = *task.phase;
  const int64_t step = plan.in_step[1], first = task.j0 * step + phase.min_dx;
  const int64_t begin = steps_until(first, step, 0, task.cols);
  // The first whose last tap is beyond the image.
  const int64_t end =
      steps_until(first + phase.max_dx - phase.min_dx, step, plan.params.input.size[3], task.cols);
  return {begin < end ? begin : end, end};
}

// An output row of a depthwise task, and the taps [begin, end) that read rows of the image.
struct DepthwiseRow {
  int64_t r, y, begin, end;
  InnerCols inner;
};

template <class T>
DENOISE_EXT_INLINE DepthwiseRow depthwise_row(const ConvPlan& plan, const ConvTask<T>& task, int64_t r) {
  const ConvPhase& phase = *task.phase;
  DepthwiseRow row{r, (task.i0 + r) * plan.in_step[0], 0, phase.tap_count, inner_cols(plan, task)};
  const ConvTap* taps = plan.taps.data() + phase.tap_begin;
  const auto outside = [&](int64_t t) {
    const int64_t y = row.y + taps[t].dy;
    return y < 0 || y >= plan.params.input.size[2];
  };
  while (row.begin < row.end && outside(row.begin)) row.begin += phase.tap_cols;
  while (row.begin < row.end && outside(row.end - 1)) row.end -= phase.tap_cols;
  return row;
}

// Columns [x, end) of a row, for one block of channels, read from the image itself. Zeros around the image
// are no operands at all. Some columns are computed twice, so that groups of pixels are whole; but none where
// the output is the residual, which the first time overwrites.
template <class T, int V, int kSides>
void depthwise_cols(const ConvPlan& plan, const ConvTask<T>& task, const DepthwiseRow& row,
                    const ChannelBlock& block, int64_t x, int64_t end) {
  constexpr int kPixels = kAccumulators / V < 8 ? kAccumulators / V : 8;
  constexpr int kWidth = V * kLanes<T>;
  const ConvParams& params = plan.params;
  const ConvPhase& phase = *task.phase;
  const Tensor4& input = params.input;
  const T* const bias[2] = {static_cast<const T*>(plan.bias) + block.first,
                            kSides == 2 ? static_cast<const T*>(plan.gate_bias) + block.first : nullptr};
  const T* slope = params.activation == Activation::kPrelu
                       ? static_cast<const T*>(plan.prelu_slope) + block.first + block.skipped
                       : nullptr;
  const int64_t first_weight = phase.tap_begin * plan.padded_outputs + block.first;
  const T* const weight[2] = {static_cast<const T*>(plan.weight) + first_weight,
                              kSides == 2 ? static_cast<const T*>(plan.gate_weight) + first_weight : nullptr};
  const int64_t first_pixel = task.n * input.stride[0] + block.first;
  const T* const image[2] = {
      static_cast<const T*>(input.data) + first_pixel,
      kSides == 2 ? static_cast<const T*>(params.gate.input.data) + first_pixel : nullptr};
  const int64_t* offsets = plan.image_offsets.data() + phase.tap_begin;
  const int64_t step = plan.in_step[1], pixel_step = step * input.stride[3];
  OutputSpan at{};
  at.n = task.n;
  at.channel = block.first + block.skipped;
  at.y = phase.out_y0 + (task.i0 + row.r) * phase.out_step[0];
  at.channels = kWidth - block.skipped;
  at.x_step = phase.out_step[1];
  const bool in_place = plan.in_place_output && block.skipped == 0;
  const auto emit = [&]<int P>(const Vec<T>(&acc)[P][V], int64_t col) __attribute__((always_inline)) {
    at.x = phase.out_x0 + (task.j0 + col) * phase.out_step[1];
    at.pixels = P;
    if (in_place) return store_in_place<T>(in_place_row<T>(plan, at), P, acc);
    store_sums<T>(acc, task.sums);
    finish<T, T, kWidth>(params, at, slope, task.sums + block.skipped);
  };
  const auto group = [&](int64_t col) __attribute__((always_inline)) {
    const int64_t first =
        (row.y + phase.min_dy) * input.stride[2] + ((task.j0 + col) * step + phase.min_dx) * input.stride[3];
    Vec<T> acc[kPixels][V];
#pragma GCC unroll 1
    for (int side = kSides - 1; side >= 0; --side) {
      sum_depthwise<T>(image[side] + first, pixel_step, offsets + row.begin, row.end - row.begin,
                       plan.padded_outputs, weight[side] + row.begin * plan.padded_outputs, bias[side], acc);
      if (side == 1) keep_gate<T>(plan, acc, task.sums);
    }
    if constexpr (kSides == 2) multiply_by_gate<T>(task.sums, acc);
    emit(acc, col);
  };
  const bool once = params.residual.data == params.output.data;
  const int64_t inner = end < row.inner.end ? end : row.inner.end;
  const int64_t begin = row.inner.begin, whole = inner - kPixels;  // first columns of groups
  while (x < end) {
    if (x >= begin && x < inner && begin <= whole && (x <= whole || !once)) {
      group(x <= whole ? x : whole);
      x = x <= whole ? x + kPixels : inner;
      continue;
    }
    Vec<T> acc[1][V];
#pragma GCC unroll 1
    for (int side = kSides - 1; side >= 0; --side) {
      sum_depthwise_at_border<T, V>(plan, phase, image[side], row.y, (task.j0 + x) * step, weight[side],
                                    bias[side], acc);
      if (side == 1) keep_gate<T>(plan, acc, task.sums);
    }
    if constexpr (kSides == 2) multiply_by_gate<T>(task.sums, acc);
    emit(acc, x++);
  }
}

// Asks for `cols` pixels of the last row that this output row reads, from output column `x` on.
template <class T>
DENOISE_EXT_INLINE void prefetch_depthwise(const ConvPlan& plan, const ConvTask<T>& task,
                                           const DepthwiseRow& row, int64_t x, int64_t cols) {
  if (row.begin == row.end || x + cols > row.inner.end) return;
  const Tensor4& input = plan.params.input;
  const ConvPhase& phase = *task.phase;
  const int64_t y = row.y + plan.taps[static_cast<size_t>(phase.tap_begin + row.end - 1)].dy;
  const T* from = static_cast<const T*>(input.data) + task.n * input.stride[0] + y * input.stride[2] +
                  ((task.j0 + x) * plan.in_step[1] + phase.max_dx) * input.stride[3];
  const int64_t elements = cols * plan.in_step[1] * input.stride[3];
  for (int64_t i = 0; i < elements; i += 64 / static_cast<int64_t>(sizeof(T)))
    __builtin_prefetch(from + i, 0, 2);
}

// All channels of a few pixels, then the next: memory is read and written from one end to the other.
template <class T, int kSides>
void depthwise_task(const ConvPlan& plan, const ConvTask<T>& task) {
  constexpr int64_t kCols = 24;
  for (int64_t r = 0; r < task.rows; ++r) {
    const DepthwiseRow row = depthwise_row(plan, task, r);
    for (int64_t x = 0; x < task.cols; x += kCols) {
      const int64_t end = x + kCols < task.cols ? x + kCols : task.cols;
      prefetch_depthwise(plan, task, row, end, kCols);
      for (const ChannelBlock& block : plan.blocks) {
        if (block.vectors == 1) depthwise_cols<T, 1, kSides>(plan, task, row, block, x, end);
        if (block.vectors == 2) depthwise_cols<T, 2, kSides>(plan, task, row, block, x, end);
        if constexpr (kAccumulators >= 24) {
          if (block.vectors == 3) depthwise_cols<T, 3, kSides>(plan, task, row, block, x, end);
          if (block.vectors == 4) depthwise_cols<T, 4, kSides>(plan, task, row, block, x, end);
        }
      }
    }
  }
}

template <class T>
void conv_block(const ConvPlan& plan, const ConvTask<T>& task, const ChannelBlock& block) {
  switch (block.vectors) {
    case 1: return conv_rows<T, 1>(plan, task, block);
    case 2: return conv_rows<T, 2>(plan, task, block);
    default: break;
  }
  if constexpr (kAccumulators >= 24) {
    if (block.vectors == 3) return conv_rows<T, 3>(plan, task, block);
    return conv_rows<T, 4>(plan, task, block);
  }
}

template <class T>
void conv_blocks(const ConvPlan& plan, const ConvTask<T>& task) {
  if (plan.depthwise) return conv_block<T>(plan, task, plan.blocks[task.slice]);
  for (const ChannelBlock& block : plan.blocks) conv_block<T>(plan, task, block);
}

// One tile of one phase.
template <class T>
void conv_tile(const ConvPlan& plan, ConvTask<T>& task, const ConvPhase& phase, int64_t tile) {
  task.phase = &phase;
  task.i0 = tile / phase.tiles_x * plan.tile_rows;
  task.j0 = tile % phase.tiles_x * plan.tile_cols;
  task.rows = phase.rows - task.i0 < plan.tile_rows ? phase.rows - task.i0 : plan.tile_rows;
  task.cols = phase.cols - task.j0 < plan.tile_cols ? phase.cols - task.j0 : plan.tile_cols;
  if (phase.tap_count > 0 && !plan.in_place_input) pack_group(plan, task, {0, task.rows, 0, task.cols});
  if (plan.few_outputs) {
    conv_few_outputs_any(plan, task);
  } else if (plan.depthwise_in_place) {
    plan.sides == 1 ? depthwise_task<T, 1>(plan, task) : depthwise_task<T, 2>(plan, task);
  } else if (plan.phases_at_once > 1) {
    conv_phases_any<T>(plan, task);
  } else {
    conv_blocks<T>(plan, task);
  }
}

template <class T>
void conv_task(const ConvPlan& plan, int64_t index, void* scratch) {
  ConvTask<T> task{};
  task.n = index / (plan.slices * plan.tasks_per_slice);
  task.slice = index / plan.tasks_per_slice % plan.slices;
  const int64_t local = index % plan.tasks_per_slice;
  task.scratch = static_cast<T*>(scratch);
  task.sums = task.scratch + plan.packed_elements;
  if (plan.phases_at_once > 1) {
    conv_tile(plan, task, plan.phases.front(), local);
  } else if (plan.phases_together) {
    for (const ConvPhase& phase : plan.phases) conv_tile(plan, task, phase, local);
  } else {
    size_t first = 0, end = plan.phases.size();  // the last phase that begins at or before the task
    while (end - first > 1) {
      const size_t middle = first + (end - first) / 2;
      if (plan.phases[middle].task_begin <= local) {
        first = middle;
      } else {
        end = middle;
      }
    }
    conv_tile(plan, task, plan.phases[first], local - plan.phases[first].task_begin);
  }
  if (plan.stream) finish_stores_past_caches();
}
