// One row of an image, border applied, as [pixel][channel] of the accumulation type.

// How a row is read: `pixels` pixels from position `first` on, which may lie outside 0 .. width - 1.
struct RowWindow {
  int64_t width;  // of the image
  Border border;
  int64_t first, pixels, channels;
  int64_t pixel_stride, channel_stride;
};

template <class Storage, class T>
__attribute__((noinline)) void pack_row_halo(const Storage* row, const RowWindow& window, int64_t begin,
                                             int64_t end, T* to) {
  for (int64_t i = begin; i < end; ++i) {
    const int64_t x = border_index(window.first + i, window.width, window.border);
    for (int64_t c = 0; c < window.channels; ++c)
      to[i * window.channels + c] =
          x < 0 ? T(0) : load_as<T>(row[x * window.pixel_stride + c * window.channel_stride]);
  }
}

// `row` points to the first channel of pixel 0; nullptr is a row of zeros.
template <class Storage, class T>
void pack_row(const Storage* row, const RowWindow& window, T* to) {
  const int64_t channels = window.channels, stride = window.pixel_stride;
  if (row == nullptr) {
    __builtin_memset(to, 0, static_cast<size_t>(window.pixels * channels) * sizeof(T));
    return;
  }
  // Pixels [begin, end) of the window lie inside the image.
  const int64_t before = -window.first, after = window.width - window.first;
  const int64_t begin = before < 0 ? 0 : (before < window.pixels ? before : window.pixels);
  const int64_t end = after < begin ? begin : (after < window.pixels ? after : window.pixels);
  if (begin > 0) pack_row_halo<Storage, T>(row, window, 0, begin, to);
  if (end < window.pixels) pack_row_halo<Storage, T>(row, window, end, window.pixels, to);
  if (begin >= end) return;
  const Storage* from = row + (window.first + begin) * stride;
  to += begin * channels;
  const int64_t pixels = end - begin;
  if (stride == channels && (channels == 1 || window.channel_stride == 1)) {
    for (int64_t i = 0; i < pixels * channels; ++i) to[i] = load_as<T>(from[i]);
  } else if (channels == 1) {
    for (int64_t x = 0; x < pixels; ++x) to[x] = load_as<T>(from[x * stride]);
  } else {
    for (int64_t x = 0; x < pixels; ++x)
      for (int64_t c = 0; c < channels; ++c)
        to[x * channels + c] = load_as<T>(from[x * stride + c * window.channel_stride]);
  }
}

// Row y of image n from channel `channel` on; y may be outside the image. T is the accumulation type of the
// image's dtype.
template <class T>
void pack_image_row(const Tensor4& image, int64_t n, int64_t channel, int64_t y, const RowWindow& window,
                    T* to) {
  const int64_t row = border_index(y, image.size[2], window.border);
  if (row < 0) return pack_row(static_cast<const T*>(nullptr), window, to);
  const int64_t offset = n * image.stride[0] + channel * image.stride[1] + row * image.stride[2];
  if constexpr (sizeof(T) == sizeof(float)) {
    switch (image.dtype) {
      case DType::kBFloat16: return pack_row(static_cast<const BFloat16*>(image.data) + offset, window, to);
      case DType::kFloat16: return pack_row(static_cast<const Float16*>(image.data) + offset, window, to);
      case DType::kUInt8: return pack_row(static_cast<const uint8_t*>(image.data) + offset, window, to);
      default: break;
    }
  }
  pack_row(static_cast<const T*>(image.data) + offset, window, to);
}
