// Parts of rows of pixels, of any layout and dtype, to and from lines of the type of sums.

// `count` elements that lie `stride` apart, from or to a line of the type of sums.
template <class Storage, class T>
void read_elements(const void* data, int64_t offset, int64_t stride, int64_t count, T* to) {
  const Storage* from = static_cast<const Storage*>(data) + offset;
  if (stride == 1) {
    for (int64_t i = 0; i < count; ++i) to[i] = load_as<T>(from[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = load_as<T>(from[i * stride]);
  }
}

template <class Storage, class T>
void write_elements(void* data, int64_t offset, int64_t stride, int64_t count, const T* from) {
  Storage* to = static_cast<Storage*>(data) + offset;
  if (stride == 1) {
    for (int64_t i = 0; i < count; ++i) to[i] = StoreAs<Storage>::from(from[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) to[i * stride] = StoreAs<Storage>::from(from[i]);
  }
}

// Part of a row: `count` pixels of channel `channel` of image `n` from (y, x) on.
struct RowPart {
  int64_t n, channel, y, x, count;
};

DENOISE_EXT_INLINE int64_t offset_of(const Tensor4& t, const RowPart& part) {
  return part.n * t.stride[0] + part.channel * t.stride[1] + part.y * t.stride[2] + part.x * t.stride[3];
}

template <class T>
void read_line(const Tensor4& t, const RowPart& part, T* to) {
  const int64_t offset = offset_of(t, part), stride = t.stride[3], count = part.count;
  if constexpr (sizeof(T) == 8) return read_elements<double>(t.data, offset, stride, count, to);
  switch (t.dtype) {
    case DType::kBFloat16: return read_elements<BFloat16>(t.data, offset, stride, count, to);
    case DType::kFloat16: return read_elements<Float16>(t.data, offset, stride, count, to);
    default: return read_elements<float>(t.data, offset, stride, count, to);
  }
}

template <class T>
void write_line(const Tensor4& t, const RowPart& part, const T* from) {
  const int64_t offset = offset_of(t, part), stride = t.stride[3], count = part.count;
  if constexpr (sizeof(T) == 8) {
    write_elements<double>(t.data, offset, stride, count, from);
  } else {
    switch (t.dtype) {
      case DType::kBFloat16: return write_elements<BFloat16>(t.data, offset, stride, count, from);
      case DType::kFloat16: return write_elements<Float16>(t.data, offset, stride, count, from);
      default: return write_elements<float>(t.data, offset, stride, count, from);
    }
  }
}
