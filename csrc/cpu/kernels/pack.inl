// Packing of an input tile: any layout and dtype -> [row][col][channel] of the accumulation type; and the
// way back of a row of outputs.

// What to pack of image n: rows y0, y0 + y_step, ... and of them columns x0, x0 + x_step, ...; `border` is
// the rule for what lies outside the image.
// Packed channel c is the tensor's channel (first_channel + c) / repeat: repeat > 1 is a depthwise
// convolution with a channel multiplier, whose output channels share an input channel.
struct PackWindow {
  int64_t n;
  int64_t y0, rows, x0, cols;
  int64_t first_channel, channels, repeat;
  Border border = Border::kConstant;
  int64_t y_step = 1, x_step = 1;
};

// Pixels per row and elements per pixel of the packed tile, and pixels from row to row.
struct PackedShape {
  int64_t cols, channels;
  int64_t pitch = cols;
};

// The least i >= 0, at most `count`, for which first + i * step >= limit.
DENOISE_EXT_INLINE int64_t steps_until(int64_t first, int64_t step, int64_t limit, int64_t count) {
  if (first >= limit) return 0;
  const int64_t steps = step == 1 ? limit - first : (limit - first + step - 1) / step;
  return steps < count ? steps : count;
}

template <class Storage, class T>
DENOISE_EXT_INLINE void pack_pixels(const Storage* from, int64_t col_stride, int64_t channel_stride,
                                    const PackWindow& window, int64_t cols, int64_t width, T* to) {
  const int64_t channels = window.channels;
  if (window.repeat != 1) {
    for (int64_t x = 0; x < cols; ++x)
      for (int64_t c = 0; c < channels; ++c)
        to[x * width + c] =
            load_as<T>(from[x * col_stride + (window.first_channel + c) / window.repeat * channel_stride]);
    return;
  }
  from += window.first_channel * channel_stride;
  if (channel_stride == 1 && col_stride == channels && width == channels) {
    for (int64_t i = 0; i < cols * channels; ++i) to[i] = load_as<T>(from[i]);
  } else if (channel_stride == 1) {
    for (int64_t x = 0; x < cols; ++x)
      for (int64_t c = 0; c < channels; ++c) to[x * width + c] = load_as<T>(from[x * col_stride + c]);
  } else {
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t x = 0; x < cols; ++x)
        to[x * width + c] = load_as<T>(from[x * col_stride + c * channel_stride]);
  }
}

// Pixels [from, until) of a packed row that lie left or right of the image, read from pixels inside it.
template <class Storage, class T>
__attribute__((noinline)) void pack_outside(const Storage* row, const Tensor4& tensor,
                                            const PackWindow& window, int64_t from, int64_t until,
                                            int64_t width, T* to) {
  if (window.border == Border::kConstant) {
    __builtin_memset(to + from * width, 0, static_cast<size_t>((until - from) * width) * sizeof(T));
    return;
  }
  for (int64_t x = from; x < until; ++x) {
    const int64_t column = border_index(window.x0 + x * window.x_step, tensor.size[3], window.border);
    pack_pixels<Storage, T>(row + column * tensor.stride[3], tensor.stride[3], tensor.stride[1], window, 1,
                            width, to + x * width);
  }
}

template <class Storage, class T>
void pack_window(const Tensor4& tensor, const PackWindow& window, const PackedShape& shape, T* to) {
  const int64_t x0 = window.x0, step = window.x_step, width = shape.channels;
  // Columns [begin, end) of the window lie inside the image; those from window.cols on are slack.
  const int64_t begin = steps_until(x0, step, 0, window.cols);
  const int64_t end = steps_until(x0, step, tensor.size[3], window.cols);
  const Storage* image = static_cast<const Storage*>(tensor.data) + window.n * tensor.stride[0];
  for (int64_t r = 0; r < window.rows; ++r, to += shape.pitch * width) {
    const int64_t y = border_index(window.y0 + r * window.y_step, tensor.size[2], window.border);
    const int64_t packed = y < 0 ? 0 : window.cols;
    if (y >= 0) {
      const Storage* row = image + y * tensor.stride[2];
      if (begin > 0) pack_outside<Storage, T>(row, tensor, window, 0, begin, width, to);
      if (end > begin)
        pack_pixels<Storage, T>(row + (x0 + begin * step) * tensor.stride[3], step * tensor.stride[3],
                                tensor.stride[1], window, end - begin, width, to + begin * width);
      if (end < window.cols) pack_outside<Storage, T>(row, tensor, window, end, window.cols, width, to);
    }
    __builtin_memset(to + packed * width, 0, static_cast<size_t>((shape.cols - packed) * width) * sizeof(T));
  }
}

// T is the accumulation type of the tensor's dtype.
template <class T>
void pack(const Tensor4& tensor, const PackWindow& window, const PackedShape& shape, T* to) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (tensor.dtype == DType::kBFloat16) return pack_window<BFloat16, T>(tensor, window, shape, to);
    if (tensor.dtype == DType::kFloat16) return pack_window<Float16, T>(tensor, window, shape, to);
  }
  pack_window<T, T>(tensor, window, shape, to);
}

// One row of outputs of one task: `pixels` outputs, `channels` real channels (the rest is padding).
struct OutputSpan {
  int64_t n, channel, y, x;  // of the first output
  int64_t x_step;            // distance of consecutive outputs, in pixels
  int64_t pixels, channels;
};

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
