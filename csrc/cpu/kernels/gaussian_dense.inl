// Separable Gaussian over rows that lie dense in memory, float32 and uint8 (see gaussian.h): vertically
// straight from the image into kDenseRows intermediate rows that stay in the first-level cache, then
// horizontally from there into the result.

// Each row read serves all of these output rows at once.
constexpr int kDenseVectors = kAccumulators >= 24 ? 4 : 2;

// The two element types: what a row is read as, what is kept between the passes, and the sums.
template <class Storage>
struct DenseTraits;
template <>
struct DenseTraits<float> {
  using Sum = float;   // of the vertical pass
  using Line = float;  // as it is kept
  static DENOISE_EXT_INLINE Vec<float> read(const float* from) { return load(from); }
  static DENOISE_EXT_INLINE Vec<float> keep(Vec<float> sum) { return sum; }
  static constexpr Line kZero = 0;
};
// Taps are integers of 1/256 that add up to 256: vertical sums are at most 255 * 256 and fit 16 bits,
// unsigned; what is kept is less by 2^15, as a signed number that multiply_add_pairs takes.
template <>
struct DenseTraits<uint8_t> {
  using Sum = uint16_t;
  using Line = int16_t;
  static DENOISE_EXT_INLINE Vec<uint16_t> read(const uint8_t* from) { return load_widened(from); }
  static DENOISE_EXT_INLINE Vec<int16_t> keep(Vec<uint16_t> sum) {
    return reinterpret_cast<Vec<int16_t>>(sum ^ static_cast<uint16_t>(0x8000));
  }
  static constexpr Line kZero = -32768;
};

struct DenseEdge {
  int64_t to, from;
};

template <class Storage>
struct DenseTile {
  using Line = typename DenseTraits<Storage>::Line;
  int64_t n, channel, sigma_row;
  int64_t y0, rows;
  int64_t x0, pixels;      // of the result
  int64_t first, columns;  // of the image, that the vertical pass runs over
  // Scratch
  const Storage** sources;  // [2 * kDenseRows + 2 * radius]: those of the next rows too, to prefetch
  DenseEdge* edges;         // [2 * radius], of which edge_count are in use
  int64_t edge_count;
  Storage* zeros;  // [line_elements]: a row outside the image
  Storage* row;    // [line_elements]: a row of the result, where its layout is another one
  Line* lines;     // [kDenseRows][line_elements]
};

template <class Storage>
DenseTile<Storage> dense_tile(const GaussianPlan& plan, int64_t task, void* scratch) {
  DenseTile<Storage> tile{};
  const int64_t t = task % plan.tiles, width = plan.input.size[3], radius = plan.radius[1];
  tile.x0 = t * width / plan.tiles;
  tile.pixels = (t + 1) * width / plan.tiles - tile.x0;
  tile.y0 = task / plan.tiles % plan.strips * plan.strip_rows;
  const int64_t rows = plan.input.size[2] - tile.y0;
  tile.rows = rows < plan.strip_rows ? rows : plan.strip_rows;
  tile.channel = task / (plan.tiles * plan.strips) % plan.slices;
  tile.n = task / (plan.tiles * plan.strips * plan.slices);
  tile.sigma_row = plan.sigma_rows == 1 ? 0 : tile.n;
  tile.first = tile.x0 > radius ? tile.x0 - radius : 0;
  const int64_t end = tile.x0 + tile.pixels + radius;
  tile.columns = (end < width ? end : width) - tile.first;
  tile.sources = static_cast<const Storage**>(scratch);
  tile.edges = reinterpret_cast<DenseEdge*>(tile.sources + 2 * (kDenseRows + plan.radius[0]));
  tile.lines = reinterpret_cast<typename DenseTile<Storage>::Line*>(static_cast<char*>(scratch) +
                                                                    plan.row_table_bytes);
  tile.zeros = reinterpret_cast<Storage*>(tile.lines + kDenseRows * plan.line_elements);
  tile.row = tile.zeros + plan.line_elements;
  if (plan.border == Border::kConstant)
    __builtin_memset(tile.zeros, 0, static_cast<size_t>(plan.line_elements) * sizeof(Storage));
  return tile;
}

// lines[i][e ...] = sum over t of taps[t] * sources[i + t][e ...] for kVectors vectors and kDenseRows rows.
// Only a row's own taps touch it: a row beyond its window may hold infinity.
template <class Storage, int kVectors>
DENOISE_EXT_INLINE void dense_sum_rows(const Storage* const* sources,
                                       const typename DenseTraits<Storage>::Sum* taps, int64_t radius,
                                       int64_t e, typename DenseTraits<Storage>::Line* lines,
                                       int64_t line_elements) {
  using Traits = DenseTraits<Storage>;
  using Sum = typename Traits::Sum;
  Vec<Sum> acc[kDenseRows][kVectors] = {};
  const auto add = [&](int64_t j, int from, int to) __attribute__((always_inline)) {
    Vec<Sum> row[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) row[v] = Traits::read(sources[j] + e + v * kLanes<Sum>);
#pragma GCC unroll 4
    for (int i = from; i < to; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) acc[i][v] += row[v] * taps[j - i];
    }
  };
  static_assert(kDenseRows == 4);
  add(0, 0, 1);
  if (radius > 0) {  // 2 * radius + 1 >= 3 taps
    add(1, 0, 2);
    add(2, 0, 3);
    for (int64_t j = 3; j <= 2 * radius; ++j) add(j, 0, 4);
    add(2 * radius + 1, 1, 4);
    add(2 * radius + 2, 2, 4);
  } else {
    add(1, 1, 2);
    add(2, 2, 3);
  }
  add(2 * radius + 3, 3, 4);
#pragma GCC unroll 4
  for (int i = 0; i < kDenseRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      __builtin_prefetch(sources[2 * radius + kDenseRows + i] + e + v * kLanes<Sum>);
  }
#pragma GCC unroll 4
  for (int i = 0; i < kDenseRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      store(lines + i * line_elements + e + v * kLanes<Sum>, Traits::keep(acc[i][v]));
  }
}

// The vertical pass for kDenseRows rows from y on. The last vector overlaps the one before.
template <class Storage>
void dense_vertical(const GaussianPlan& plan, const DenseTile<Storage>& tile, int64_t y) {
  using Sum = typename DenseTraits<Storage>::Sum;
  const Tensor4& image = plan.input;
  const int64_t radius = plan.radius[0], step = plan.channels, count = tile.columns * step;
  const Sum* taps = taps_of<Sum>(plan.taps[0], radius, tile.sigma_row);
  const Storage* origin = static_cast<const Storage*>(image.data) + tile.n * image.stride[0] +
                          tile.channel * image.stride[1] + tile.first * step;
  for (int64_t j = 0; j < 2 * kDenseRows + 2 * radius; ++j) {
    const int64_t row = border_index(y - radius + j, image.size[2], plan.border);
    tile.sources[j] = row < 0 ? tile.zeros : origin + row * image.stride[2];
  }
  auto* lines = tile.lines + (tile.first - tile.x0 + plan.radius[1]) * step;
  int64_t e = 0;
  for (; e + kDenseVectors * kLanes<Sum> <= count; e += kDenseVectors * kLanes<Sum>)
    dense_sum_rows<Storage, kDenseVectors>(tile.sources, taps, radius, e, lines, plan.line_elements);
  for (; e < count; e += kLanes<Sum>) {
    const int64_t last = count - kLanes<Sum>;
    dense_sum_rows<Storage, 1>(tile.sources, taps, radius, e < last ? e : last, lines, plan.line_elements);
  }
}

// Where the columns outside the image are read from: tile.edges, as columns of a line; -1: a zero.
template <class Storage>
void find_edges(const GaussianPlan& plan, DenseTile<Storage>& tile) {
  const int64_t begin = tile.x0 - plan.radius[1], end = tile.x0 + tile.pixels + plan.radius[1];
  const auto add = [&](int64_t x) {
    const int64_t from = border_index(x, plan.input.size[3], plan.border);
    tile.edges[tile.edge_count++] = {x - begin, from < 0 ? -1 : from - begin};
  };
  for (int64_t x = begin; x < tile.first; ++x) add(x);
  for (int64_t x = tile.first + tile.columns; x < end; ++x) add(x);
}

// Fills a line's columns outside the image from those inside.
template <class Storage>
void dense_extend(const DenseTile<Storage>& tile, int64_t step, typename DenseTile<Storage>::Line* line) {
  for (int64_t i = 0; i < tile.edge_count; ++i) {
    const DenseEdge edge = tile.edges[i];
    for (int64_t c = 0; c < step; ++c)
      line[edge.to * step + c] = edge.from < 0 ? DenseTraits<Storage>::kZero : line[edge.from * step + c];
  }
}

// to[e ...] = sum over i of taps[i] * line[e + i * step ...]
template <int kVectors, bool kStream>
DENOISE_EXT_INLINE void dense_sum_columns(const float* line, int64_t step, const float* taps, int64_t radius,
                                          int64_t e, float* to) {
  const float* centre = line + radius * step + e;
  Vec<float> acc[kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) acc[v] = load(centre + v * kLanes<float>) * taps[radius];
  for (int64_t i = 1; i <= radius; ++i) {
    const float *left = centre - i * step, *right = centre + i * step;
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      acc[v] += taps[radius - i] * (load(left + v * kLanes<float>) + load(right + v * kLanes<float>));
  }
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    if constexpr (kStream) {
      store_past_caches(to + e + v * kLanes<float>, acc[v]);
    } else {
      store(to + e + v * kLanes<float>, acc[v]);
    }
  }
}

// The horizontal pass of one row. Streaming, the first vector is written twice: once in place, for what lies
// before the first aligned address.
inline void dense_horizontal(const float* line, int64_t step, const float* taps, int64_t radius,
                             int64_t count, bool streaming, float* to) {
  constexpr int64_t kLane = kLanes<float>, kBlock = kDenseVectors * kLane;
  int64_t e = 0;
  if (streaming) {
    dense_sum_columns<1, false>(line, step, taps, radius, 0, to);
    const auto misaligned =
        static_cast<int64_t>(reinterpret_cast<uintptr_t>(to) % kVectorBytes / sizeof(float));
    e = misaligned == 0 ? 0 : kLane - misaligned;
    for (; e + kBlock <= count; e += kBlock)
      dense_sum_columns<kDenseVectors, true>(line, step, taps, radius, e, to);
  }
  for (; e + kBlock <= count; e += kBlock)
    dense_sum_columns<kDenseVectors, false>(line, step, taps, radius, e, to);
  for (; e < count; e += kLane)
    dense_sum_columns<1, false>(line, step, taps, radius, e < count - kLane ? e : count - kLane, to);
}

// The same for uint8: sums of 2^-16, rounded half up as OpenCV does. A line is less by 2^15, and the
// taps add up to 256.
template <int kVectors>
DENOISE_EXT_INLINE void dense_sum_columns(const int16_t* line, int64_t step, const uint16_t* taps,
                                          int64_t radius, int64_t e, uint8_t* to) {
  constexpr int kLane = kLanes<int16_t>;
  const int16_t* centre = line + radius * step + e;
  Vec<int32_t> lower[kVectors], upper[kVectors];
  const Vec<int16_t> tap = broadcast<int16_t>(static_cast<int16_t>(taps[radius]));
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    constexpr int32_t kStart = (1 << 15) * 256 + (1 << 15);
    const Vec<int16_t> middle = load(centre + v * kLane), zero{};
    lower[v] = multiply_add_pairs(interleave<0>(middle, zero), tap) + kStart;
    upper[v] = multiply_add_pairs(interleave<1>(middle, zero), tap) + kStart;
  }
  for (int64_t i = 1; i <= radius; ++i) {
    const int16_t *left = centre - i * step, *right = centre + i * step;
    const Vec<int16_t> pair = broadcast<int16_t>(static_cast<int16_t>(taps[radius - i]));
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const Vec<int16_t> a = in_register(load(left + v * kLane)), b = in_register(load(right + v * kLane));
      lower[v] += multiply_add_pairs(interleave<0>(a, b), pair);
      upper[v] += multiply_add_pairs(interleave<1>(a, b), pair);
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) store_narrowed(to + e + v * kLane, upper_halves(lower[v], upper[v]));
}

inline void dense_horizontal(const int16_t* line, int64_t step, const uint16_t* taps, int64_t radius,
                             int64_t count, bool, uint8_t* to) {
  constexpr int64_t kLane = kLanes<int16_t>;
  int64_t e = 0;
  for (; e + 2 * kLane <= count; e += 2 * kLane) dense_sum_columns<2>(line, step, taps, radius, e, to);
  for (; e < count; e += kLane)
    dense_sum_columns<1>(line, step, taps, radius, e < count - kLane ? e : count - kLane, to);
}

// to[c * channel_stride + x * pixel_stride] = row[x * step + c]; kStep: step, 0 for any.
template <class Storage, int kStep>
void scatter_row(const Storage* __restrict row, int64_t pixels, int64_t step, int64_t channel_stride,
                 int64_t pixel_stride, Storage* __restrict to) {
  if constexpr (kStep > 0) step = kStep;
  if (kStep > 0 && pixel_stride == 1) {
    for (int64_t x = 0; x < pixels; ++x) {
#pragma GCC unroll 4
      for (int64_t c = 0; c < step; ++c) to[c * channel_stride + x] = row[x * step + c];
    }
    return;
  }
  for (int64_t c = 0; c < step; ++c)
    for (int64_t x = 0; x < pixels; ++x) to[c * channel_stride + x * pixel_stride] = row[x * step + c];
}

template <class Storage>
void gaussian_dense_task(const GaussianPlan& plan, int64_t task, void* scratch) {
  using Sum = typename DenseTraits<Storage>::Sum;
  DenseTile<Storage> tile = dense_tile<Storage>(plan, task, scratch);
  find_edges(plan, tile);
  const Tensor4& output = plan.output;
  const int64_t step = plan.channels;
  const Sum* taps = taps_of<Sum>(plan.taps[1], plan.radius[1], tile.sigma_row);
  Storage* origin = static_cast<Storage*>(output.data) + tile.n * output.stride[0] +
                    tile.channel * output.stride[1] + tile.x0 * output.stride[3];
  const bool same_layout = output.stride[3] == step && (step == 1 || output.stride[1] == 1);
  const auto scatter =
      step == 3 ? scatter_row<Storage, 3> : (step == 4 ? scatter_row<Storage, 4> : scatter_row<Storage, 0>);
  for (int64_t r = 0; r < tile.rows; r += kDenseRows) {
    dense_vertical(plan, tile, tile.y0 + r);
    for (int64_t i = 0; i < kDenseRows && r + i < tile.rows; ++i) {
      auto* line = tile.lines + i * plan.line_elements;
      Storage* to = origin + (tile.y0 + r + i) * output.stride[2];
      dense_extend(tile, step, line);
      dense_horizontal(line, step, taps, plan.radius[1], tile.pixels * step, same_layout && plan.streaming,
                       same_layout ? to : tile.row);
      if (!same_layout) scatter(tile.row, tile.pixels, step, output.stride[1], output.stride[3], to);
    }
  }
  if (plan.streaming) finish_stores_past_caches();
}
