// Recurrent fusion (see params/motion.h), one row of pixels in tiles whose lines stay in cache; its gradient.

// The r values of a gate beside one another are r channels: calls f(gate's part, first pixel) for each
// channel that a row of pixels reads; the channel's values are those of pixels `first`, `first` + r and so
// on.
template <class F>
DENOISE_EXT_INLINE void for_gate_channels(int64_t factor, const RowPart& pixels, const F& f) {
  for (int64_t i = 0; i < factor && i < pixels.count; ++i) {
    const int64_t x = pixels.x + i, channel = pixels.y % factor * factor + x % factor;
    f(RowPart{pixels.n, channel, pixels.y / factor, x / factor, (pixels.count - i + factor - 1) / factor}, i);
  }
}

template <class T>
void read_gate(const Tensor4& gate, int64_t factor, const RowPart& pixels, T* line, T* to) {
  for_gate_channels(factor, pixels, [&](const RowPart& part, int64_t first) {
    read_line(gate, part, line);
    for (int64_t i = 0; i < part.count; ++i) to[first + i * factor] = line[i];
  });
}

template <class T>
void write_gate(const Tensor4& gate, int64_t factor, const RowPart& pixels, T* line, const T* from) {
  for_gate_channels(factor, pixels, [&](const RowPart& part, int64_t first) {
    for (int64_t i = 0; i < part.count; ++i) line[i] = from[first + i * factor];
    write_line(gate, part, line);
  });
}

// The lines of a tile, and what both directions begin with: the weight, 0 where nothing is fused.
template <class T>
struct FuseTile {
  FuseTile(const RecurrentFuseParams& params, const RowPart& part, void* scratch) : count(part.count) {
    for (int i = 0; i < kLines; ++i) line[i] = static_cast<T*>(scratch) + i * kFuseTile;
    const int64_t channels = params.input.size[1], factor = params.input.size[3] / params.gate.size[3];
    read_gate(params.gate, factor, part, line[3], weight());
    read_line(params.previous, {part.n, 2 * channels, part.y, part.x, count}, previous_level());
    read_line(params.level, {part.n, 0, part.y, part.x, count}, level());
    for (int64_t i = 0; i < count; ++i)
      weight()[i] = previous_level()[i] != 0 && level()[i] != 0 ? weight()[i] : T(0);
  }

  T* weight() const { return line[0]; }
  T* previous_level() const { return line[1]; }
  T* level() const { return line[2]; }

  // sqrt(((1 - w) level)^2 + (w previous_level)^2) of whole vectors; what follows the tile is not looked at.
  void fused_level(T* to) const {
    for (int64_t i = 0; i < count; i += kLanes<T>) {
      const Vec<T> w = load(weight() + i), now = (T(1) - w) * load(level() + i),
                   before = w * load(previous_level() + i);
      store(to + i, root<Vec<T>>(now * now + before * before));
    }
  }

  static constexpr int kLines = 12;
  const int64_t count;
  T* line[kLines];
};

template <class T>
void fuse_row(const RecurrentFuseParams& params, int64_t image, int64_t y, void* scratch) {
  const int64_t channels = params.input.size[1], width = params.input.size[3];
  for (int64_t x = 0; x < width; x += kFuseTile) {
    const RowPart part{image, 0, y, x, x + kFuseTile < width ? kFuseTile : width - x};
    const FuseTile<T> tile(params, part, scratch);
    const T *weight = tile.weight(), *previous_level = tile.previous_level(), *level = tile.level();
    T *input = tile.line[3], *last = tile.line[4], *fused = tile.line[5];
    for (int64_t c = 0; c < channels; ++c) {
      RowPart channel = part;
      channel.channel = c;
      read_line(params.input, channel, input);
      read_line(params.previous, channel, last);
      channel.channel = channels + c;
      read_line(params.previous, channel, fused);
      for (int64_t i = 0; i < part.count; ++i) {
        const T mixed = input[i] + weight[i] * (fused[i] - input[i]);
        fused[i] = previous_level[i] != 0 && level[i] != 0 ? mixed : input[i];
        last[i] = previous_level[i] != 0 ? last[i] : input[i];
      }
      write_line(params.output, channel, fused);
      channel.channel = c;
      write_line(params.output, channel, last);
    }
    tile.fused_level(fused);
    write_line(params.output, {part.n, 2 * channels, part.y, part.x, part.count}, fused);
  }
}

template <class T>
void fuse_grad_row(const RecurrentFuseGradParams& params, int64_t image, int64_t y, void* scratch) {
  const RecurrentFuseParams& forward = params.forward;
  const int64_t channels = forward.input.size[1], width = forward.input.size[3];
  const int64_t factor = width / forward.gate.size[3];
  for (int64_t x = 0; x < width; x += kFuseTile) {
    const RowPart part{image, 0, y, x, x + kFuseTile < width ? kFuseTile : width - x};
    const FuseTile<T> tile(forward, part, scratch);
    const T *weight = tile.weight(), *previous_level = tile.previous_level(), *level = tile.level();
    T *input = tile.line[3], *fused = tile.line[4], *grad_last = tile.line[5], *grad_fused = tile.line[6],
      *grad_weight = tile.line[7], *grad_level = tile.line[8], *grad_previous_level = tile.line[9];
    for (int64_t i = 0; i < part.count; ++i) grad_weight[i] = 0;
    for (int64_t c = 0; c < channels; ++c) {
      RowPart lower = part, upper = part;
      lower.channel = c;
      upper.channel = channels + c;
      read_line(forward.input, lower, input);
      read_line(forward.previous, upper, fused);
      read_line(params.grad_output, lower, grad_last);
      read_line(params.grad_output, upper, grad_fused);
      for (int64_t i = 0; i < part.count; ++i) {
        const T w = weight[i], grad = grad_fused[i];
        const bool known = previous_level[i] != 0;
        grad_weight[i] += grad * (fused[i] - input[i]);
        input[i] = (T(1) - w) * grad + (known ? T(0) : grad_last[i]);
        grad_last[i] = known ? grad_last[i] : T(0);
        fused[i] = w * grad;
      }
      if (params.grad_input.data != nullptr) write_line(params.grad_input, lower, input);
      if (params.grad_previous.data == nullptr) continue;
      write_line(params.grad_previous, lower, grad_last);
      write_line(params.grad_previous, upper, fused);
    }
    RowPart level_part = part;
    level_part.channel = 2 * channels;
    read_line(params.grad_output, level_part, grad_level);
    tile.fused_level(fused);
    for (int64_t i = 0; i < part.count; ++i) {
      const T w = weight[i], rest = T(1) - w, now = level[i], before = previous_level[i];
      const T slope = fused[i] > 0 ? grad_level[i] / fused[i] : T(0);  // a level of 0 has none
      grad_weight[i] += slope * (w * before * before - rest * now * now);
      grad_weight[i] = before != 0 && now != 0 ? grad_weight[i] : T(0);
      grad_level[i] = slope * rest * rest * now;
      grad_previous_level[i] = slope * w * w * before;
    }
    if (params.grad_previous.data != nullptr)
      write_line(params.grad_previous, level_part, grad_previous_level);
    if (params.grad_level.data != nullptr) write_line(params.grad_level, part, grad_level);
    if (params.grad_gate.data != nullptr) write_gate(params.grad_gate, factor, part, input, grad_weight);
  }
}
