// Joint bilateral filter: one tile (see bilateral.h).

// Blocks of this many vectors: as many as leave registers for the centre and the exponential.
constexpr int kBilateralVectors = kAccumulators >= 24 ? 4 : 2;
template <class T>
constexpr int kBilateralBlock = kBilateralVectors * kLanes<T>;

template <class T>
struct BilateralTile {
  int64_t n, y0, x0, rows, cols;
  T *guidance, *input;  // packed planes
  T* rest;              // scratch after the plan's planes
};

template <class T>
BilateralTile<T> bilateral_tile(const BilateralPlan& plan, int64_t task, void* scratch) {
  BilateralTile<T> tile{};
  const int64_t row = task / plan.tiles[1] % plan.tiles[0], col = task % plan.tiles[1];
  const int64_t rows = plan.extent[0] - row * plan.tile_rows, cols = plan.extent[1] - col * plan.tile_cols;
  tile.n = plan.first_image + task / (plan.tiles[0] * plan.tiles[1]);
  tile.y0 = plan.origin[0] + row * plan.tile_rows;
  tile.x0 = plan.origin[1] + col * plan.tile_cols;
  tile.rows = rows < plan.tile_rows ? rows : plan.tile_rows;
  tile.cols = cols < plan.tile_cols ? cols : plan.tile_cols;
  tile.guidance = static_cast<T*>(scratch);
  tile.input =
      plan.joint() ? tile.guidance + plan.params.guidance.size[1] * plan.plane_elements() : tile.guidance;
  tile.rest = tile.guidance + plan.planes * plan.plane_elements();
  return tile;
}

// Packs the first `channels` channels of image n as planes, the radius around the tile included.
template <class T>
void pack_planes(const BilateralPlan& plan, const BilateralTile<T>& tile, const Tensor4& image, int64_t n,
                 int64_t channels, Border border, T* to) {
  const RowWindow window{
      image.size[3],   border,         tile.x0 - plan.radius[1], tile.cols + 2 * plan.radius[1], 1,
      image.stride[3], image.stride[1]};
  const int64_t rows = tile.rows + 2 * plan.radius[0];
  for (int64_t c = 0; c < channels; ++c, to += plan.plane_elements()) {
    for (int64_t r = 0; r < rows; ++r) {
      T* row = to + r * plan.packed_cols;
      pack_image_row(image, n, c, tile.y0 - plan.radius[0] + r, window, row);
      // Blocks run past the last column: what they read there must be a number.
      __builtin_memset(row + window.pixels, 0,
                       static_cast<size_t>(plan.packed_cols - window.pixels) * sizeof(T));
    }
  }
}

template <class T>
void pack_tile(const BilateralPlan& plan, const BilateralTile<T>& tile, bool with_input) {
  const BilateralParams& params = plan.params;
  pack_planes(plan, tile, params.guidance, tile.n, params.guidance.size[1], params.border, tile.guidance);
  if (with_input && plan.joint())
    pack_planes(plan, tile, params.input, tile.n, params.input.size[1], params.border, tile.input);
}

// d^2 / (2 sigma_color^2) between a vector of pixels and their neighbours at `offset`. Scaling comes
// before squaring, whose result may underflow.
template <class T, int kChannels, bool kL1>
DENOISE_EXT_INLINE Vec<T> color_exponent(const T* centre, int64_t offset, int64_t plane, int64_t channels,
                                         Vec<T> scale) {
  Vec<T> sum{};
  const int64_t count = kChannels > 0 ? kChannels : channels;
  for (int64_t c = 0; c < count; ++c) {
    const Vec<T> difference = load(centre + c * plane + offset) - load(centre + c * plane);
    if constexpr (kL1) {
      sum += absolute<T>(difference);
    } else {
      const Vec<T> scaled = difference * scale;
      sum += scaled * scaled;
    }
  }
  if constexpr (kL1) {
    sum *= scale;
    sum *= sum;
  }
  return sum;
}

// weights[tap][kBilateralBlock] of one block for taps first .. first + count - 1; adds them to totals.
// `centre` is the block's first pixel in the first guidance plane. kChannels: guidance channels, 0 for
// any number of them.
template <class T, int kChannels, bool kL1>
void bilateral_weights(const BilateralPlan& plan, const T* centre, const T* log_space, T scale, int64_t first,
                       int64_t count, T* weights, T* totals) {
  const int64_t plane = plan.plane_elements(), channels = plan.params.guidance.size[1];
  const Vec<T> scales = broadcast<T>(scale);
  Vec<T> sums[kBilateralVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kBilateralVectors; ++v) sums[v] = load(totals + v * kLanes<T>);
  for (int64_t t = 0; t < count; ++t) {
    const int64_t offset = plan.taps[first + t].offset;
    const Vec<T> space = broadcast<T>(log_space[first + t]);
#pragma GCC unroll 4
    for (int v = 0; v < kBilateralVectors; ++v) {
      const Vec<T> exponent =
          color_exponent<T, kChannels, kL1>(centre + v * kLanes<T>, offset, plane, channels, scales);
      const Vec<T> weight = exp<T>(space - exponent);
      sums[v] += weight;
      store(weights + t * kBilateralBlock<T> + v * kLanes<T>, weight);
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < kBilateralVectors; ++v) store(totals + v * kLanes<T>, sums[v]);
}

template <class T>
auto bilateral_weights_for(const BilateralParams& params) {
  const bool l1 = params.distance == ColorDistance::kL1;
  switch (params.guidance.size[1]) {
    case 1: return bilateral_weights<T, 1, false>;  // both distances are the same
    case 3: return l1 ? bilateral_weights<T, 3, true> : bilateral_weights<T, 3, false>;
    default: return l1 ? bilateral_weights<T, 0, true> : bilateral_weights<T, 0, false>;
  }
}

// sums[kBilateralBlock] += sum over taps of weights[tap] * plane[tap.offset]
template <class T>
void add_weighted(const BilateralTap* taps, const T* weights, int64_t count, const T* plane, T* sums) {
  Vec<T> acc[kBilateralVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kBilateralVectors; ++v) acc[v] = load(sums + v * kLanes<T>);
  for (int64_t t = 0; t < count; ++t) {
    const T *weight = weights + t * kBilateralBlock<T>, *from = plane + taps[t].offset;
#pragma GCC unroll 4
    for (int v = 0; v < kBilateralVectors; ++v)
      acc[v] += load(weight + v * kLanes<T>) * load(from + v * kLanes<T>);
  }
#pragma GCC unroll 4
  for (int v = 0; v < kBilateralVectors; ++v) store(sums + v * kLanes<T>, acc[v]);
}

// Row r of the tile: totals[row_elements], the sums of the weights, and means[channel][row_elements],
// the weighted means of the first `channels` input channels. weights: [kTapChunk][kBilateralBlock].
template <class T>
void bilateral_row(const BilateralPlan& plan, const BilateralTile<T>& tile, int64_t r, int64_t channels,
                   T* weights, T* totals, T* means) {
  const BilateralParams& params = plan.params;
  const int64_t tap_count = plan.taps.size(), row = plan.row_elements;
  const T* log_space =
      static_cast<const T*>(plan.log_space) + (params.sigma_space.size == 2 ? 0 : tile.n * tap_count);
  const T scale = static_cast<const T*>(plan.color_scale)[params.sigma_color.size == 1 ? 0 : tile.n];
  const auto compute_weights = bilateral_weights_for<T>(params);
  __builtin_memset(totals, 0, static_cast<size_t>(row) * sizeof(T));
  __builtin_memset(means, 0, static_cast<size_t>(channels * row) * sizeof(T));
  for (int64_t x = 0; x < tile.cols; x += kBilateralBlock<T>) {
    const int64_t centre = (r + plan.radius[0]) * plan.packed_cols + plan.radius[1] + x;
    for (int64_t first = 0; first < tap_count; first += kTapChunk) {
      const int64_t count = tap_count - first < kTapChunk ? tap_count - first : kTapChunk;
      compute_weights(plan, tile.guidance + centre, log_space, scale, first, count, weights, totals + x);
      for (int64_t c = 0; c < channels; ++c)
        add_weighted(plan.taps.data() + first, weights, count,
                     tile.input + c * plan.plane_elements() + centre, means + c * row + x);
    }
    for (int64_t c = 0; c < channels; ++c)
      for (int v = 0; v < kBilateralBlock<T>; v += kLanes<T>) {
        T* mean = means + c * row + x + v;
        store(mean, load(mean) / load(totals + x + v));
      }
  }
}

template <class Storage, class T>
void store_plane_row(const Tensor4& image, int64_t offset, const T* from, int64_t pixels) {
  Storage* to = static_cast<Storage*>(image.data) + offset;
  const int64_t stride = image.stride[3];
  if (stride == 1) {
    for (int64_t x = 0; x < pixels; ++x) to[x] = StoreAs<Storage>::from(from[x]);
  } else {
    for (int64_t x = 0; x < pixels; ++x) to[x * stride] = StoreAs<Storage>::from(from[x]);
  }
}

// Writes `pixels` pixels from (y, x) on of one channel of image n.
template <class T>
void store_image_row(const Tensor4& image, int64_t n, int64_t channel, int64_t y, int64_t x, const T* from,
                     int64_t pixels) {
  const int64_t offset =
      n * image.stride[0] + channel * image.stride[1] + y * image.stride[2] + x * image.stride[3];
  if constexpr (sizeof(T) == sizeof(float)) {
    switch (image.dtype) {
      case DType::kBFloat16: return store_plane_row<BFloat16>(image, offset, from, pixels);
      case DType::kFloat16: return store_plane_row<Float16>(image, offset, from, pixels);
      case DType::kUInt8: return store_plane_row<uint8_t>(image, offset, from, pixels);
      default: break;
    }
  }
  store_plane_row<T>(image, offset, from, pixels);
}

template <class T>
void bilateral_task(const BilateralPlan& plan, int64_t task, void* scratch) {
  const BilateralTile<T> tile = bilateral_tile<T>(plan, task, scratch);
  const int64_t channels = plan.params.input.size[1];
  T* weights = tile.rest;
  T* totals = weights + kTapChunk * kBilateralBlock<T>;
  T* means = totals + plan.row_elements;
  pack_tile(plan, tile, true);
  for (int64_t r = 0; r < tile.rows; ++r) {
    bilateral_row(plan, tile, r, channels, weights, totals, means);
    for (int64_t c = 0; c < channels; ++c)
      store_image_row(plan.params.output, tile.n, c, tile.y0 + r, tile.x0, means + c * plan.row_elements,
                      tile.cols);
  }
}
