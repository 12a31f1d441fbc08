// Motion compensation by blocks (see params/motion.h): whole pixels, copied; and its adjoint.

DENOISE_EXT_INLINE int64_t clamped(int64_t position, int64_t size) {
  return position < 0 ? 0 : (position < size ? position : size - 1);
}

// One block of a plane. Elements of one size are copied alike, whatever they mean. `step` elements lie
// between horizontal neighbours and are copied together: 1, or all channels of an interleaved image.
template <class Element, int64_t kStep>
DENOISE_EXT_INLINE void warp_block(const Element* plane, int64_t row_stride, const int16_t* motion, int64_t y,
                                   int64_t x, int64_t height, int64_t width, int64_t any_step, Element* to,
                                   int64_t to_stride) {
  const int64_t step = kStep > 0 ? kStep : any_step;
  const int64_t upper = y + motion[0], left = x + motion[1];
  to += y * to_stride + x * step;
  if (upper >= 0 && left >= 0 && upper + kBlock <= height && left + kBlock <= width && y + kBlock <= height &&
      x + kBlock <= width) {
    const Element* from = plane + upper * row_stride + left * step;
#pragma GCC unroll 8
    for (int64_t i = 0; i < kBlock; ++i)
      __builtin_memcpy(to + i * to_stride, from + i * row_stride,
                       static_cast<size_t>(kBlock * step) * sizeof(Element));
    return;
  }
  for (int64_t i = 0; i < kBlock && y + i < height; ++i) {
    const Element* row = plane + clamped(upper + i, height) * row_stride;
    for (int64_t j = 0; j < kBlock && x + j < width; ++j)
      for (int64_t c = 0; c < step; ++c)
        to[i * to_stride + j * step + c] = row[clamped(left + j, width) * step + c];
  }
}

// Planes of any strides.
template <class Element>
void warp_line_strided(const Element* plane, const Tensor4& in, const int16_t* motion, int64_t y,
                       const Tensor4& out, Element* to) {
  const int64_t height = in.size[2], width = in.size[3];
  for (int64_t x = 0; x < width; ++x) {
    const int16_t* v = motion + x / kBlock * 2;
    const int64_t source = clamped(y + v[0], height) * in.stride[2] + clamped(x + v[1], width) * in.stride[3];
    to[x * out.stride[3]] = plane[source];
  }
}

template <class Element>
void warp_row_of(const BlockWarpParams& params, int64_t image, int64_t block_row) {
  const Tensor4 &in = params.input, &out = params.output;
  const int64_t channels = in.size[1], height = in.size[2], width = in.size[3];
  const int64_t columns = (width + kBlock - 1) / kBlock, rows = (height + kBlock - 1) / kBlock;
  const int16_t* motion = params.motion + 2 * (image * rows + block_row) * columns;
  const Element* from = static_cast<const Element*>(in.data) + image * in.stride[0];
  Element* to = static_cast<Element*>(out.data) + image * out.stride[0];
  const bool planar = in.stride[3] == 1 && out.stride[3] == 1;
  const bool interleaved = channels > 1 && in.stride[1] == 1 && out.stride[1] == 1 &&
                           in.stride[3] == channels && out.stride[3] == channels;
  const int64_t first = block_row * kBlock, end = first + kBlock < height ? first + kBlock : height;
  for (int64_t c = 0; c < (interleaved ? 1 : channels); ++c) {
    const Element* plane = from + c * in.stride[1];
    Element* out_plane = to + c * out.stride[1];
    if (!planar && !interleaved) {
      for (int64_t y = first; y < end; ++y)
        warp_line_strided(plane, in, motion, y, out, out_plane + y * out.stride[2]);
      continue;
    }
    for (int64_t i = 0; i < columns; ++i)
      if (planar)
        warp_block<Element, 1>(plane, in.stride[2], motion + 2 * i, first, i * kBlock, height, width, 1,
                               out_plane, out.stride[2]);
      else
        warp_block<Element, 0>(plane, in.stride[2], motion + 2 * i, first, i * kBlock, height, width,
                               channels, out_plane, out.stride[2]);
  }
}

void warp_row(const BlockWarpParams& params, int64_t image, int64_t block_row) {
  switch (params.input.dtype) {
    case DType::kFloat64: return warp_row_of<uint64_t>(params, image, block_row);
    case DType::kFloat32: return warp_row_of<uint32_t>(params, image, block_row);
    case DType::kUInt8: return warp_row_of<uint8_t>(params, image, block_row);
    case DType::kBFloat16:
    case DType::kFloat16: return warp_row_of<uint16_t>(params, image, block_row);
  }
}

// One thread adds up a plane, in the order of its pixels: sums do not depend on the number of threads.
template <class Storage, class T>
void warp_plane_adjoint_of(const BlockWarpParams& params, int64_t image, int64_t channel, T* sums) {
  const Tensor4 &in = params.input, &out = params.output;
  const int64_t height = in.size[2], width = in.size[3];
  const int64_t columns = (width + kBlock - 1) / kBlock, rows = (height + kBlock - 1) / kBlock;
  __builtin_memset(sums, 0, static_cast<size_t>(height * width) * sizeof(T));
  const Storage* from = static_cast<const Storage*>(in.data) + image * in.stride[0] + channel * in.stride[1];
  for (int64_t y = 0; y < height; ++y) {
    const int16_t* motion = params.motion + 2 * (image * rows + y / kBlock) * columns;
    const Storage* line = from + y * in.stride[2];
    for (int64_t x = 0; x < width; ++x) {
      const int16_t* v = motion + x / kBlock * 2;
      sums[clamped(y + v[0], height) * width + clamped(x + v[1], width)] +=
          load_as<T>(line[x * in.stride[3]]);
    }
  }
  Storage* to = static_cast<Storage*>(out.data) + image * out.stride[0] + channel * out.stride[1];
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x)
      to[y * out.stride[2] + x * out.stride[3]] = StoreAs<Storage>::from(sums[y * width + x]);
}

void warp_plane_adjoint(const BlockWarpParams& params, int64_t image, int64_t channel, void* scratch) {
  switch (params.input.dtype) {
    case DType::kFloat64:
      return warp_plane_adjoint_of<double>(params, image, channel, static_cast<double*>(scratch));
    case DType::kBFloat16:
      return warp_plane_adjoint_of<BFloat16>(params, image, channel, static_cast<float*>(scratch));
    case DType::kFloat16:
      return warp_plane_adjoint_of<Float16>(params, image, channel, static_cast<float*>(scratch));
    case DType::kFloat32:
      return warp_plane_adjoint_of<float>(params, image, channel, static_cast<float*>(scratch));
    case DType::kUInt8: return;  // has no gradient
  }
}
