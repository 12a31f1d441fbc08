// Packing of an input tile: any layout and dtype -> [row][col][channel] of the accumulation type.

// What to pack: pixels [y0, y0 + rows) x [x0, x0 + cols) of image n, zero where they lie outside it.
// Packed channel c is the tensor's channel (first_channel + c) / repeat: repeat > 1 is a depthwise
// convolution with a channel multiplier, whose output channels share an input channel.
struct PackWindow {
  int64_t n;
  int64_t y0, rows, x0, cols;
  int64_t first_channel, channels, repeat;
};

// Pixels per row and elements per pixel of the packed tile (its rows are consecutive).
struct PackedShape {
  int64_t cols, channels;
};

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

template <class Storage, class T>
void pack_window(const Tensor4& tensor, const PackWindow& window, const PackedShape& shape, T* to) {
  const int64_t x0 = window.x0, width = shape.channels;
  // Columns [begin, end) of the window lie inside the image.
  const int64_t begin = x0 >= 0 ? 0 : (-x0 < window.cols ? -x0 : window.cols);
  const int64_t room = tensor.size[3] - x0;
  const int64_t end = room < begin ? begin : (room < window.cols ? room : window.cols);
  const Storage* image = static_cast<const Storage*>(tensor.data) + window.n * tensor.stride[0];
  for (int64_t r = 0; r < window.rows; ++r, to += shape.cols * width) {
    const int64_t y = window.y0 + r;
    const bool inside = y >= 0 && y < tensor.size[2];
    const int64_t from = inside ? begin : 0, until = inside ? end : 0;
    __builtin_memset(to, 0, static_cast<size_t>(from * width) * sizeof(T));
    if (until > from)
      pack_pixels<Storage, T>(image + y * tensor.stride[2] + (x0 + from) * tensor.stride[3], tensor.stride[3],
                              tensor.stride[1], window, until - from, width, to + from * width);
    __builtin_memset(to + until * width, 0, static_cast<size_t>((shape.cols - until) * width) * sizeof(T));
  }
}

template <class T>
void pack(const Tensor4& tensor, const PackWindow& window, const PackedShape& shape, T* to) {
  switch (tensor.dtype) {
    case DType::kFloat64: return pack_window<double, T>(tensor, window, shape, to);
    case DType::kBFloat16: return pack_window<BFloat16, T>(tensor, window, shape, to);
    case DType::kFloat16: return pack_window<Float16, T>(tensor, window, shape, to);
    default: return pack_window<float, T>(tensor, window, shape, to);
  }
}
