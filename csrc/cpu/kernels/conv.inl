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
    const T* pixel = in + offsets[t];
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

// ---- one task -------------------------------------------------------------------------------------

template <class Storage, class T, int V>
void conv_rows(const ConvPlan& plan, const ConvTask<T>& task, const ChannelBlock& block) {
  constexpr int kPixels = kAccumulators / V;
  constexpr int kWidth = V * kLanes<T>;
  const ConvParams& params = plan.params;
  const ConvPhase& phase = *task.phase;
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
  at.x_step = phase.out_step[1];
  const bool in_place = plan.in_place_output && at.channels == kWidth;
  const Finish<Storage, T, kWidth> finish(params.output.dtype);
  for (int64_t r = 0; r < task.rows; ++r) {
    at.y = phase.out_y0 + (task.i0 + r) * phase.out_step[0];
    for (int64_t x = 0; x < task.cols; x += kPixels) {
      const GroupInput<T> in = group_input<T>(plan, task, r, x);
      Vec<T> acc[kPixels][V];
      if (plan.depthwise) {
        sum_depthwise<T>(in.first, in.pixel_step, in.offsets, phase.tap_count, plan.padded_outputs, weight,
                         constants, acc);
      } else {
        sum_dense<T>(in.first, in.pixel_step, in.offsets, phase.tap_count, plan.group_inputs, weight,
                     constants, acc);
      }
      at.x = phase.out_x0 + (task.j0 + x) * phase.out_step[1];
      at.pixels = task.cols - x < kPixels ? task.cols - x : kPixels;
      if (in_place) {
        store_in_place<T>(in_place_row<T>(plan, at), at.pixels, acc);
      } else {
        store_sums<T>(acc, task.sums);
        finish.call(params, at, slope, task.sums);
      }
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
  size_t first = 0, end = plan.phases.size();  // the last phase that begins at or before the task
  while (end - first > 1) {
    const size_t middle = first + (end - first) / 2;
    if (plan.phases[middle].task_begin <= local) {
      first = middle;
    } else {
      end = middle;
    }
  }
  const ConvPhase& phase = plan.phases[first];
  task.phase = &phase;
  const int64_t tile = local - phase.task_begin;
  task.i0 = tile / phase.tiles_x * plan.tile_rows;
  task.j0 = tile % phase.tiles_x * plan.tile_cols;
  task.rows = phase.rows - task.i0 < plan.tile_rows ? phase.rows - task.i0 : plan.tile_rows;
  task.cols = phase.cols - task.j0 < plan.tile_cols ? phase.cols - task.j0 : plan.tile_cols;
  task.scratch = static_cast<T*>(scratch);
  task.sums = task.scratch + plan.packed_elements;
  if (phase.tap_count > 0 && !plan.in_place_input) pack_group(plan, task, {0, task.rows, 0, task.cols});
  if (plan.few_outputs) {
    conv_few_outputs_any(plan, task);
  } else if (plan.params.output.dtype == accumulation_type(plan.params.output.dtype)) {
    conv_blocks<T, T>(plan, task);
  } else if constexpr (sizeof(T) == sizeof(float)) {
    conv_blocks<SixteenBits, T>(plan, task);
  }
  if (plan.stream) finish_stores_past_caches();
}
