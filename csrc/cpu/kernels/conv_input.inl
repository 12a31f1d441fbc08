// A task of a direct convolution and its input: read from the image itself where the vectors can be, with
// copies only along the border; else from a packed copy of all that the task needs.

template <class T>
struct ConvTask {
  const ConvPhase* phase;
  int64_t n, slice;            // slice: group, or channel block where depthwise
  int64_t i0, rows, j0, cols;  // outputs of the phase
  T* scratch;                  // the packed input of the task, or of one group of pixels
  T* sums;
};

// Some of a task's outputs, counted from its first.
struct OutputPart {
  int64_t row, rows, col, cols;
};

// The input pixels that they need, all in one window. Where an axis of the tile is gathered, those of the
// phase's first tap along it.
template <class T>
PackWindow input_window(const ConvPlan& plan, const ConvTask<T>& task, const OutputPart& part) {
  const ConvPhase& phase = *task.phase;
  PackWindow window{};
  window.n = task.n;
  window.y0 = (task.i0 + part.row) * plan.in_step[0] + phase.min_dy;
  window.rows = (part.rows - 1) * plan.in_step[0] + phase.max_dy - phase.min_dy + 1;
  if (plan.packed[0].gathered) {
    window.rows = part.rows;
    window.y_step = plan.in_step[0];
  }
  window.x0 = (task.j0 + part.col) * plan.in_step[1] + phase.min_dx;
  window.cols = (part.cols - 1) * plan.in_step[1] + phase.max_dx - phase.min_dx + 1;
  if (plan.packed[1].gathered) {
    window.cols = part.cols;
    window.x_step = plan.in_step[1];
  }
  window.first_channel = task.slice * plan.group_inputs;
  window.channels = plan.group_inputs;
  window.repeat = 1;
  window.border = plan.params.border;
  if (plan.depthwise) {
    const ChannelBlock& block = plan.blocks[task.slice];
    const int64_t left = plan.group_outputs - block.first, width = block.vectors * kLanes<T>;
    window.first_channel = block.first;
    window.channels = left < width ? left : width;
    window.repeat = plan.params.output.size[1] / plan.params.input.size[1];
  }
  return window;
}

// The input of a group of pixels of one output row: its first pixel's first tap, the distance between
// the pixels of consecutive outputs, and where each of the phase's taps is from there.
template <class T>
struct GroupInput {
  const T* first;
  int64_t pixel_step;
  const int64_t* offsets;
};

template <class T>
void pack_group(const ConvPlan& plan, const ConvTask<T>& task, const OutputPart& group) {
  // Sums over whole vectors of channels read the padding too.
  if (plan.few_outputs && plan.packed_channels != plan.group_inputs)
    __builtin_memset(task.scratch, 0, static_cast<size_t>(plan.packed_elements) * sizeof(T));
  const ConvPhase& phase = *task.phase;
  const PackedAxis &rows = plan.packed[0], &cols = plan.packed[1];
  const PackWindow window = input_window(plan, task, group);
  const PackedShape shape{cols.piece, plan.packed_channels, cols.length};
  if (!rows.gathered && !cols.gathered) return pack<T>(plan.params.input, window, shape, task.scratch);
  const ConvTap* taps = plan.taps.data() + phase.tap_begin;
  for (int64_t i = 0; i < (rows.gathered ? phase.tap_rows : 1); ++i)
    for (int64_t j = 0; j < (cols.gathered ? phase.tap_cols : 1); ++j) {
      PackWindow piece = window;
      if (rows.gathered) piece.y0 += taps[i * phase.tap_cols].dy - phase.min_dy;
      if (cols.gathered) piece.x0 += taps[j].dx - phase.min_dx;
      pack<T>(plan.params.input, piece, shape,
              task.scratch + (i * rows.piece * cols.length + j * cols.piece) * plan.packed_channels);
    }
}

// Row `row` of the task's outputs from column `col` on. The group has plan.pixel_group outputs, though
// the task's last columns may not need all.
template <class T>
DENOISE_EXT_INLINE GroupInput<T> group_input(const ConvPlan& plan, const ConvTask<T>& task, int64_t row,
                                             int64_t col) {
  const ConvPhase& phase = *task.phase;
  const int64_t step = plan.in_step[1];
  GroupInput<T> group{task.scratch, plan.packed[1].step * plan.packed_channels,
                      plan.packed_offsets.data() + phase.tap_begin};
  if (!plan.in_place_input) {
    group.first += (row * plan.packed[0].step * plan.packed[1].length + col * plan.packed[1].step) *
                   plan.packed_channels;
    return group;
  }
  const Tensor4& input = plan.params.input;
  const int64_t y = (task.i0 + row) * plan.in_step[0] + phase.min_dy;
  const int64_t x = (task.j0 + col) * step + phase.min_dx;
  int64_t channel = task.slice * plan.group_inputs;
  bool inside = y >= 0 && y + phase.max_dy - phase.min_dy < input.size[2] && x >= 0 &&
                x + (plan.pixel_group - 1) * step + phase.max_dx - phase.min_dx < input.size[3];
  if (plan.depthwise) {  // whole vectors of channels are read
    const ChannelBlock& block = plan.blocks[task.slice];
    channel = block.first;
    inside = inside && channel + block.vectors * kLanes<T> <= input.size[1];
  }
  if (!inside || phase.tap_count == 0) {
    if (phase.tap_count > 0) pack_group(plan, task, {row, 1, col, plan.pixel_group});
    return group;
  }
  const T* first = static_cast<const T*>(input.data) + task.n * input.stride[0] + channel +
                   y * input.stride[2] + x * input.stride[3];
  const int64_t pixel_step = step * input.stride[3];
  // The last row is the one that no output row before has read. Its pixels are visited in an order that
  // the processor does not foresee, so they are asked for two groups ahead.
  const T* ahead =
      first + (phase.max_dy - phase.min_dy) * input.stride[2] + 2 * plan.pixel_group * pixel_step;
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t i = 0; i < plan.pixel_group * pixel_step; i += kLine) __builtin_prefetch(ahead + i);
  return {first, pixel_step, plan.image_offsets.data() + phase.tap_begin};
}
