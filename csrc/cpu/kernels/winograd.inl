// Winograd convolution of one block of tiles: input transform, products, output transform with bias,
// residual and activation. The block's transformed values stay in the second-level cache.

// From point to point of V and M, as a number that the compiler knows.
struct Lanes {
  constexpr operator int64_t() const { return kLanes<float>; }
};

// ---- input ----------------------------------------------------------------------------------------

// Along one axis, the place of input i of a tile: every pixel counts `repeat` times. A tile whose pixels
// count twice begins at the second copy of one: tiles begin at even outputs, and padding is 1.
constexpr int winograd_place(int repeat, int i) {
  return repeat == 1 ? i : (i + 1) / 2;
}

// V at rows `kFirst` .. of the n x n points, for one vector of channels: B^T d along the columns, then
// along those rows. Done for a pair of rows at a time (they share most of their terms, and 2 n values
// fit the registers), which reads d more often but writes nothing in between.
template <class W, int kRepeat, int kFirst, int kCount, class PointStep>
DENOISE_EXT_INLINE void winograd_input_rows(const float* d, int64_t row, int64_t col, float* v,
                                            PointStep point_step) {
  constexpr int n = W::kPoints, kTogether = 3, kPointers = divide_up(n, kTogether);
  Vec<float> rows[kCount][n];
#pragma GCC unroll 8
  for (int j = 0; j < n; ++j) {
    Vec<float> column[n], transformed[n];
    // Addresses 0, 1 and 2 rows from a pointer need no register of their own.
    const float* first[kPointers];
#pragma GCC unroll 3
    for (int i = 0; i < kPointers; ++i) {
      first[i] = d + kTogether * i * row + winograd_place(kRepeat, j) * col;
      opaque(first[i]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < n; ++i) {
      const int place = winograd_place(kRepeat, i);
      column[i] = load(first[place / kTogether] + place % kTogether * row);
    }
    W::input(column, transformed);  // all but rows[.][j] of it is dead code
#pragma GCC unroll 2
    for (int r = 0; r < kCount; ++r) rows[r][j] = transformed[kFirst + r];
  }
#pragma GCC unroll 2
  for (int r = 0; r < kCount; ++r) {
    Vec<float> transformed[n];
    W::input(rows[r], transformed);
#pragma GCC unroll 8
    for (int j = 0; j < n; ++j) store(v + ((kFirst + r) * n + j) * point_step, transformed[j]);
  }
}

template <class W, int kRepeat = 1, class PointStep>
void winograd_input_slice(const float* d, int64_t row, int64_t col, float* v, PointStep point_step) {
  winograd_input_rows<W, kRepeat, 0, 1>(d, row, col, v, point_step);
  winograd_input_rows<W, kRepeat, 1, 2>(d, row, col, v, point_step);
  if constexpr (W::kPoints >= 6) winograd_input_rows<W, kRepeat, 3, 2>(d, row, col, v, point_step);
  if constexpr (W::kPoints == 8) winograd_input_rows<W, kRepeat, 5, 2>(d, row, col, v, point_step);
  winograd_input_rows<W, kRepeat, W::kPoints - 1, 1>(d, row, col, v, point_step);
}

// All vectors of the channels, of which there is at least one.
template <class W, int kRepeat>
DENOISE_EXT_INLINE void winograd_input_slices(const WinogradPlan& plan, const float* d, int64_t row,
                                              int64_t col, int64_t channels, float* v) {
  constexpr int kWide = kLanes<float>;
  for (int64_t c = 0; c < channels; c += kWide, v += plan.vector_step) {
    // The last vector overlaps the one before rather than read past the channels.
    const int64_t first = c + kWide <= channels ? c : channels - kWide;
    winograd_input_slice<W, kRepeat>(d + first, row, col, v, Lanes{});
  }
}

// The pixels of an image that a tile reads: from (y, x) on, `step` apart.
struct WinogradInputs {
  int64_t y, x, step_y, step_x;
};

// A copy of the tile's n x n pixels of `image`, each of which counts kRepeat times: [row][col][width].
template <class W, int kRepeat>
void winograd_patch(const WinogradPlan& plan, const WinogradTile& at, const WinogradInputs& from,
                    const Tensor4& image, int64_t width, float* patch) {
  constexpr int n = W::kPoints;
  const Border border = plan.params.border;
  PackWindow window{at.n, from.y, n, from.x, n, 0, image.size[1], 1, border, from.step_y, from.step_x};
  if constexpr (kRepeat == 1) return pack<float>(image, window, {n, width}, patch);
  window.rows = window.cols = 1;
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; ++j, patch += width) {
      const int64_t y = border_index(at.y0 + i, image.size[2] * kRepeat, border);
      const int64_t x = border_index(at.x0 + j, image.size[3] * kRepeat, border);
      if (y < 0 || x < 0) {
        __builtin_memset(patch, 0, static_cast<size_t>(width) * sizeof(float));
      } else {
        window.y0 = y / kRepeat;
        window.x0 = x / kRepeat;
        pack<float>(image, window, {1, width}, patch);
      }
    }
}

// The channels of one image in V, of one tile. Reads the tile's pixels in place if all are inside the image
// and in the transform's order, else from a copy in whole vectors.
template <class W, int kRepeat>
DENOISE_EXT_INLINE void winograd_input_part(const WinogradPlan& plan, const WinogradTile& at,
                                            const WinogradInputs& from, const Tensor4& image, bool direct,
                                            float* v, float* patch) {
  constexpr int n = W::kPoints, kWide = kLanes<float>;
  const bool inside = from.y >= 0 && from.x >= 0 &&
                      from.y + (n - 1) * from.step_y < image.size[2] * kRepeat &&
                      from.x + (n - 1) * from.step_x < image.size[3] * kRepeat;
  if (direct && inside) {
    const float* first = static_cast<const float*>(image.data) + at.n * image.stride[0] +
                         from.y / kRepeat * image.stride[2] + from.x / kRepeat * image.stride[3];
    return winograd_input_slices<W, kRepeat>(plan, first, from.step_y * image.stride[2],
                                             from.step_x * image.stride[3], image.size[1], v);
  }
  const int64_t width = divide_up(image.size[1], kWide) * kWide;
  winograd_patch<W, kRepeat>(plan, at, from, image, width, patch);
  const int64_t channels = image.size[1] < kWide ? kWide : image.size[1];
  winograd_input_slices<W, 1>(plan, patch, n * width, width, channels, v);
}

// One tile of V.
template <class W>
DENOISE_EXT_INLINE void winograd_input(const WinogradPlan& plan, const WinogradTile& at, float* v,
                                       float* patch) {
  const Tensor4 &input = plan.params.input, &coarse = plan.params.coarse;
  if (coarse.data != nullptr)
    winograd_input_part<W, 2>(plan, at, {at.y0, at.x0, 1, 1}, coarse, plan.direct_coarse, v, patch);
  if (input.size[1] == 0) return;
  v += plan.part_vectors[0] * plan.vector_step;
  const int64_t* step = plan.phases.input_step;
  for (const WinogradPhase& phase : plan.phases.inputs) {
    const WinogradInputs from{at.y0 * step[0] + phase.first[0] + at.first[0],
                              at.x0 * step[1] + phase.first[1] + at.first[1], step[0], step[1]};
    winograd_input_part<W, 1>(plan, at, from, input, plan.direct_input, v, patch);
    v += plan.part_vectors[1] * plan.vector_step;
  }
}

// ---- output ---------------------------------------------------------------------------------------

template <class W>
constexpr float winograd_scale(int power) {
  float scale = 1;
  for (int i = 0; i < power; ++i) scale *= W::kScale;
  return scale;
}

// y = A^T m A for one vector of filters; sink(i, j, value) gets each output without its bias. The rows
// are made in as many passes as the registers need.
template <class W, class Sink>
DENOISE_EXT_INLINE void winograd_output_slice(const float* m, const Vec<float>& bias, const Sink& sink) {
  constexpr int n = W::kPoints, outputs = W::kOutputs;
  constexpr int kPasses = outputs == 2 || (kAccumulators >= 24 && outputs == 4) ? 1 : 2;
  constexpr int kRows = outputs / kPasses;
  const auto pass = [&]<int kPass>() __attribute__((always_inline)) {
    Vec<float> rows[kRows][n];
#pragma GCC unroll 8
    for (int j = 0; j < n; ++j) {
      Vec<float> column[n], transformed[outputs];
#pragma GCC unroll 8
      for (int i = 0; i < n; ++i) column[i] = load(m + (i * n + j) * kLanes<float>);
      W::output(column, transformed);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) rows[r][j] = transformed[r * kPasses + kPass];
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      Vec<float> transformed[outputs];
      W::output(rows[r], transformed);
#pragma GCC unroll 6
      for (int j = 0; j < outputs; ++j) {
        const int i = r * kPasses + kPass;
        sink(i, j, transformed[j] * winograd_scale<W>(i + j) + bias);
      }
    }
  };
  pass.template operator()<0>();
  if constexpr (kPasses == 2) pass.template operator()<1>();
}

// A tile's outputs of one phase: the first one's place in the image, and how many are inside it.
struct WinogradOutputs {
  int64_t n, y, x, rows, cols;
};

template <class W>
DENOISE_EXT_INLINE WinogradOutputs winograd_outputs_of(const WinogradPlan& plan, const WinogradTile& tile,
                                                       const WinogradPhase& phase) {
  const int64_t *size = plan.params.output.size, *step = plan.phases.output_step;
  const int64_t y = phase.first[0] + tile.first[0] + tile.y * step[0];
  const int64_t x = phase.first[1] + tile.first[1] + tile.x * step[1];
  // Divisions take as long as a good part of a transform.
  const int64_t rows = step[0] == 1 ? size[2] - y : divide_up(size[2] - y, step[0]);
  const int64_t cols = step[1] == 1 ? size[3] - x : divide_up(size[3] - x, step[1]);
  return {tile.n, y, x, rows < W::kOutputs ? rows : W::kOutputs, cols < W::kOutputs ? cols : W::kOutputs};
}

// Where a tile's outputs of one vector of channels go when the whole tile is inside an output of float32 with
// adjacent channels.
struct DirectOutput {
  float* to;              // or nullptr: they are only pooled
  const float* residual;  // or nullptr
  float* pooled;          // or nullptr
  int64_t row, col, residual_row, residual_col, pooled_row, pooled_col;
};

DENOISE_EXT_INLINE DirectOutput direct_output(const WinogradPlan& plan, const WinogradOutputs& at,
                                              int64_t channel) {
  const auto address = [&](const Tensor4& x, int64_t y, int64_t x0) -> float* {
    if (x.data == nullptr) return nullptr;
    return static_cast<float*>(x.data) + at.n * x.stride[0] + channel + y * x.stride[2] + x0 * x.stride[3];
  };
  const int64_t* step = plan.phases.output_step;
  const ConvParams& params = plan.params;
  return {address(params.output, at.y, at.x),
          address(params.residual, at.y, at.x),
          address(params.pooled, at.y / 2, at.x / 2),
          step[0] * params.output.stride[2],
          step[1] * params.output.stride[3],
          step[0] * params.residual.stride[2],
          step[1] * params.residual.stride[3],
          params.pooled.stride[2],
          params.pooled.stride[3]};
}

// The larger of each pair, NaN if either is, as in torch.
DENOISE_EXT_INLINE Vec<float> pooled_maximum(const Vec<float>& a, const Vec<float>& b) {
  return ((a >= b) | (a != a)) ? a : b;
}

// Stores a tile's outputs as they come, row by row or the even rows first, and reduces their 2x2 blocks.
template <class W, bool kPooled>
struct DirectStore {
  const DirectOutput& at;
  bool stream, average;
  Vec<float> blocks[W::kOutputs / 2][W::kOutputs / 2];

  DENOISE_EXT_INLINE void operator()(int i, int j, const Vec<float>& value) {
    if (!kPooled || at.to != nullptr) {
      float* to = at.to + i * at.row + j * at.col;
      stream ? store_past_caches(to, value) : store(to, value);
    }
    if constexpr (kPooled) {
      Vec<float>& block = blocks[i / 2][j / 2];
      if (i % 2 == 0 && j % 2 == 0) {
        block = value;
      } else {
        block = average ? block + value : pooled_maximum(block, value);
      }
      if (i % 2 == 1 && j % 2 == 1)
        store(at.pooled + i / 2 * at.pooled_row + j / 2 * at.pooled_col, average ? 0.25f * block : block);
    }
  }
};

template <class W, bool kPooled>
void winograd_output_direct(const WinogradPlan& plan, const DirectOutput& at, const float* m,
                            int64_t channel) {
  const ConvParams& params = plan.params;
  const Vec<float> bias = load(plan.bias + channel);
  DirectStore<W, kPooled> put{at, plan.stream, params.pooling == Pooling::kAverage, {}};
  const auto skip = [&at](int i, int j) {
    return load(at.residual + i * at.residual_row + j * at.residual_col);
  };
  if (plan.clamped) {
    const Vec<float> lowest = broadcast<float>(plan.lowest);
    if (at.residual != nullptr) {
      winograd_output_slice<W>(m, bias, [&](int i, int j, Vec<float> value) {
        value += skip(i, j);
        put(i, j, value < lowest ? lowest : value);
      });
    } else {
      winograd_output_slice<W>(m, bias, [&](int i, int j, const Vec<float>& value) {
        put(i, j, value < lowest ? lowest : value);
      });
    }
    return;
  }
  const float* slope = plan.prelu_slope + channel;
  const float negative_slope = static_cast<float>(params.negative_slope);
  const bool residual = at.residual != nullptr;
  const bool before = params.residual_position == ResidualPosition::kBeforeActivation;
  winograd_output_slice<W>(m, bias, [&](int i, int j, Vec<float> value) {
    if (residual && before) value += skip(i, j);
    value = activate_short<float>(value, params.activation, negative_slope, slope);
    if (residual && !before) value += skip(i, j);
    put(i, j, value);
  });
}

// Reduces the 2x2 blocks of a tile's outputs, [row][col][width], in place and stores them.
template <class Storage, class W>
void winograd_pool(const ConvParams& params, OutputSpan span, const WinogradOutputs& at, int64_t width,
                   float* sums) {
  constexpr int64_t outputs = W::kOutputs;
  const bool average = params.pooling == Pooling::kAverage;
  span.pixels = at.cols / 2;
  span.x = at.x / 2;
  for (int64_t i = 0; i < at.rows / 2; ++i) {
    float* row = sums + i * outputs * width;
    for (int64_t j = 0; j < at.cols / 2; ++j)
      for (int64_t k = 0; k < width; k += kLanes<float>) {
        const float* block = sums + (2 * i * outputs + 2 * j) * width + k;
        const Vec<float> a = load(block), b = load(block + width), c = load(block + outputs * width),
                         d = load(block + (outputs + 1) * width);
        store(row + j * width + k, average ? 0.25f * (((a + b) + c) + d)
                                           : pooled_maximum(pooled_maximum(a, b), pooled_maximum(c, d)));
      }
    span.y = at.y / 2 + i;
    store_span<Storage, float>(params.pooled, span, width, row);
  }
}

template <class Storage, class W>
void winograd_finish(const WinogradPlan& plan, const WinogradOutputs& at, const ChannelBlock& block,
                     float* sums) {
  const ConvParams& params = plan.params;
  const int64_t width = block.vectors * static_cast<int64_t>(kLanes<float>);
  OutputSpan span{};
  span.n = at.n;
  span.channel = block.first;
  span.channels = plan.filters - block.first < width ? plan.filters - block.first : width;
  span.x = at.x;
  span.x_step = plan.phases.output_step[1];
  span.pixels = at.cols;
  for (int64_t i = 0; i < at.rows; ++i) {
    span.y = at.y + i * plan.phases.output_step[0];
    float* row = sums + i * W::kOutputs * width;
    apply_epilogue<Storage, float>(params, span, width, plan.prelu_slope + block.first, row);
    if (params.output.data != nullptr) store_span<Storage, float>(params.output, span, width, row);
  }
  if (params.pooled.data != nullptr) winograd_pool<Storage, W>(params, span, at, width, sums);
}

// Any output: through a buffer of the tile's outputs, which may run past the image or the filters.
template <class W>
void winograd_output_any(const WinogradPlan& plan, const WinogradOutputs& at, const ChannelBlock& block,
                         const float* m, float* sums) {
  constexpr int outputs = W::kOutputs, kWide = kLanes<float>;
  const int64_t width = block.vectors * kWide;
  for (int v = 0; v < block.vectors; ++v)
    winograd_output_slice<W>(m + v * plan.vector_step, load(plan.bias + block.first + v * kWide),
                             [&](int i, int j, const Vec<float>& value) {
                               store(sums + (i * outputs + j) * width + v * kWide, value);
                             });
  switch (plan.params.output.dtype) {
    case DType::kBFloat16: return winograd_finish<BFloat16, W>(plan, at, block, sums);
    case DType::kFloat16: return winograd_finish<Float16, W>(plan, at, block, sums);
    default: return winograd_finish<float, W>(plan, at, block, sums);
  }
}

template <class W>
DENOISE_EXT_INLINE void winograd_output(const WinogradPlan& plan, const WinogradOutputs& at,
                                        const ChannelBlock& block, const float* m, float* sums) {
  constexpr int kWide = kLanes<float>;
  const bool whole =
      at.rows == W::kOutputs && at.cols == W::kOutputs && block.first + block.vectors * kWide <= plan.filters;
  if (!plan.direct_output || !whole) return winograd_output_any<W>(plan, at, block, m, sums);
  for (int64_t k = 0; k < block.vectors * kWide; k += kWide, m += plan.vector_step) {
    const DirectOutput to = direct_output(plan, at, block.first + k);
    to.pooled == nullptr ? winograd_output_direct<W, false>(plan, to, m, block.first + k)
                         : winograd_output_direct<W, true>(plan, to, m, block.first + k);
  }
}

// ---- one task -------------------------------------------------------------------------------------

template <class W>
void winograd_block(const WinogradPlan& plan, int64_t index, int64_t next, void* scratch) {
  constexpr int64_t points = W::kPoints * W::kPoints, kWide = kLanes<float>;
  constexpr int64_t kTileStep = winograd_tile_step(W::kPoints, kWide);
  const int64_t first = index / plan.groups * plan.block_tiles, group = index % plan.groups;
  const int64_t tiles = plan.tiles - first < plan.block_tiles ? plan.tiles - first : plan.block_tiles;
  float* v = static_cast<float*>(scratch);
  float* m = v + plan.m_offset;
  float* patch = v + plan.patch_offset;
  float* sums = v + plan.sums_offset;

  const WinogradTile front = winograd_tile(plan, first);
  WinogradTile at = front;
  for (int64_t t = 0; t < tiles; at = winograd_next_tile(plan, at, first + ++t))
    winograd_input<W>(plan, at, v + t * kTileStep, patch);

  const int64_t following = next / plan.groups * plan.block_tiles, end = following + plan.block_tiles;
  LinePrefetch<WinogradInputAreas> inputs{{plan, following, end < plan.tiles ? end : plan.tiles}};
  const bool writes = plan.direct_output && plan.params.output.data != nullptr && !plan.stream;
  const auto count = static_cast<int64_t>(plan.blocks.size());
  const int64_t block_begin = group * count / plan.groups, block_end = (group + 1) * count / plan.groups;
  const float* u = plan.weight;
  const WinogradRuns* runs = plan.runs_at.data();
  for (const WinogradPhase& phase : plan.phases.outputs) {
    for (int64_t b = 0; b < count; ++b) {
      const ChannelBlock& block = plan.blocks[static_cast<size_t>(b)];
      const int64_t weights = plan.channels * block.vectors * kWide;  // of a point
      if (b < block_begin || b >= block_end) {
        u += points * weights;
        continue;
      }
      WinogradPrefetch prefetch{{{plan, phase, block, first, writes ? first + tiles : first}},
                                inputs,
                                winograd_output_lines(plan, block.vectors),
                                plan.input_lines};
      for (int64_t p = 0; p < points; ++p, u += weights)
        winograd_products_of<kTileStep>(block.vectors, tiles, v + p * kWide, plan.vector_step, u, weights,
                                        plan.runs.data() + runs[p].begin, plan.runs.data() + runs[p].end,
                                        m + p * kWide, prefetch);
      at = front;
      for (int64_t t = 0; t < tiles; at = winograd_next_tile(plan, at, first + ++t))
        winograd_output<W>(plan, winograd_outputs_of<W>(plan, at, phase), block, m + t * kTileStep, sums);
    }
    runs += points;
  }
  if (plan.stream) finish_stores_past_caches();
}
