// Winograd convolution of one block of tiles: input transform, products, output transform with bias,
// residual and activation. The block's transformed values stay in the second-level cache.

// ---- input ----------------------------------------------------------------------------------------

// V at rows `kFirst` .. of the n x n points, for one vector of channels: B^T d along the columns, then
// along those rows. Done for a pair of rows at a time (they share most of their terms, and 2 n values
// fit the registers), which reads d more often but writes nothing in between.
template <class W, int kFirst, int kCount>
DENOISE_EXT_INLINE void winograd_input_rows(const float* d, int64_t row, int64_t col, float* v,
                                            int64_t point_stride) {
  constexpr int n = W::kPoints;
  Vec<float> rows[kCount][n];
#pragma GCC unroll 8
  for (int j = 0; j < n; ++j) {
    Vec<float> column[n], transformed[n];
#pragma GCC unroll 8
    for (int i = 0; i < n; ++i) column[i] = load(d + i * row + j * col);
    W::input(column, transformed);  // all but rows[.][j] of it is dead code
#pragma GCC unroll 2
    for (int r = 0; r < kCount; ++r) rows[r][j] = transformed[kFirst + r];
  }
#pragma GCC unroll 2
  for (int r = 0; r < kCount; ++r) {
    Vec<float> transformed[n];
    W::input(rows[r], transformed);
#pragma GCC unroll 8
    for (int j = 0; j < n; ++j) store(v + ((kFirst + r) * n + j) * point_stride, transformed[j]);
  }
}

template <class W>
void winograd_input_slice(const float* d, int64_t row, int64_t col, float* v, int64_t point_stride) {
  winograd_input_rows<W, 0, 1>(d, row, col, v, point_stride);
  winograd_input_rows<W, 1, 2>(d, row, col, v, point_stride);
  winograd_input_rows<W, 3, 2>(d, row, col, v, point_stride);
  if constexpr (W::kPoints == 8) winograd_input_rows<W, 5, 2>(d, row, col, v, point_stride);
  winograd_input_rows<W, W::kPoints - 1, 1>(d, row, col, v, point_stride);
}

// Row `index` of V from the tile's n x n input pixels: read where they lie if they are inside the image
// and as the transform wants them, else from a copy.
template <class W>
DENOISE_EXT_INLINE void winograd_input(const WinogradPlan& plan, const WinogradTile& at, float* v,
                                       float* patch) {
  constexpr int n = W::kPoints;
  const Tensor4& input = plan.params.input;
  const bool inside = at.y0 >= 0 && at.x0 >= 0 && at.y0 + n <= input.size[2] && at.x0 + n <= input.size[3];
  const float* d = patch;
  int64_t row = n * plan.v_row, col = plan.v_row, channels = plan.v_row;
  if (plan.direct_input && inside) {
    d = static_cast<const float*>(input.data) + at.n * input.stride[0] + at.y0 * input.stride[2] +
        at.x0 * input.stride[3];
    row = input.stride[2];
    col = input.stride[3];
    channels = plan.channels;
  } else {
    PackWindow window{};
    window.n = at.n;
    window.y0 = at.y0;
    window.x0 = at.x0;
    window.rows = window.cols = n;
    window.channels = plan.channels;
    window.repeat = 1;
    window.border = plan.params.border;
    pack<float>(input, window, {n, plan.v_row}, patch);
  }
  constexpr int kWide = kLanes<float>;
  for (int64_t c = 0; c < channels; c += kWide) {
    // The last vector overlaps the one before rather than read past the channels.
    const int64_t first = c + kWide <= channels ? c : channels - kWide;
    winograd_input_slice<W>(d + first, row, col, v + first, plan.v_point);
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
DENOISE_EXT_INLINE void winograd_output_slice(const float* m, int64_t point_stride, const Vec<float>& bias,
                                              const Sink& sink) {
  constexpr int n = W::kPoints, outputs = W::kOutputs;
  constexpr int kPasses = kAccumulators >= 24 && outputs == 4 ? 1 : 2;
  constexpr int kRows = outputs / kPasses;
  const auto pass = [&]<int kPass>() __attribute__((always_inline)) {
    Vec<float> rows[kRows][n];
#pragma GCC unroll 8
    for (int j = 0; j < n; ++j) {
      Vec<float> column[n], transformed[outputs];
#pragma GCC unroll 8
      for (int i = 0; i < n; ++i) column[i] = load(m + (i * n + j) * point_stride);
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
  const int64_t *size = plan.params.output.size, *step = plan.phases.step;
  const int64_t y = phase.first[0] + tile.y * step[0], x = phase.first[1] + tile.x * step[1];
  const int64_t rows = divide_up(size[2] - y, step[0]), cols = divide_up(size[3] - x, step[1]);
  return {tile.n, y, x, rows < W::kOutputs ? rows : W::kOutputs, cols < W::kOutputs ? cols : W::kOutputs};
}

// Where a tile's outputs go when the whole tile is inside an output of float32 with adjacent channels.
struct DirectOutput {
  float* to;
  const float* residual;  // or nullptr
  int64_t row, col, residual_row, residual_col;
};

DENOISE_EXT_INLINE DirectOutput direct_output(const WinogradPlan& plan, const WinogradOutputs& at,
                                              int64_t channel) {
  const auto address = [&](const Tensor4& x) {
    return static_cast<float*>(x.data) + at.n * x.stride[0] + channel + at.y * x.stride[2] +
           at.x * x.stride[3];
  };
  const int64_t* step = plan.phases.step;
  const Tensor4 &output = plan.params.output, &residual = plan.params.residual;
  return {address(output),
          residual.data == nullptr ? nullptr : address(residual),
          step[0] * output.stride[2],
          step[1] * output.stride[3],
          step[0] * residual.stride[2],
          step[1] * residual.stride[3]};
}

template <class W>
void winograd_output_direct(const WinogradPlan& plan, const DirectOutput& at, const float* m,
                            int64_t channel) {
  const ConvParams& params = plan.params;
  const Vec<float> bias = load(plan.bias + channel);
  const auto put = [at, stream = plan.stream](int i, int j, const Vec<float>& value) {
    float* to = at.to + i * at.row + j * at.col;
    stream ? store_past_caches(to, value) : store(to, value);
  };
  if (plan.clamped) {
    const Vec<float> lowest = broadcast<float>(plan.lowest);
    winograd_output_slice<W>(m, plan.m_point, bias, [&](int i, int j, const Vec<float>& value) {
      put(i, j, value < lowest ? lowest : value);
    });
    return;
  }
  const float* slope = plan.prelu_slope + channel;
  const bool residual = at.residual != nullptr;
  const bool before = params.residual_position == ResidualPosition::kBeforeActivation;
  const auto skip = [at](int i, int j) {
    return load(at.residual + i * at.residual_row + j * at.residual_col);
  };
  winograd_output_slice<W>(m, plan.m_point, bias, [&](int i, int j, Vec<float> value) {
    if (residual && before) value += skip(i, j);
    value = activate<float>(value, params, slope);
    if (residual && !before) value += skip(i, j);
    put(i, j, value);
  });
}

// Any output: through a buffer of the tile's outputs, which may run past the image or the filters.
template <class W>
void winograd_output_any(const WinogradPlan& plan, const WinogradOutputs& at, const ChannelBlock& block,
                         const float* m, float* sums) {
  constexpr int outputs = W::kOutputs, kWide = kLanes<float>;
  const int64_t width = block.vectors * kWide;
  for (int v = 0; v < block.vectors; ++v)
    winograd_output_slice<W>(m + v * kWide, plan.m_point, load(plan.bias + block.first + v * kWide),
                             [&](int i, int j, const Vec<float>& value) {
                               store(sums + (i * outputs + j) * width + v * kWide, value);
                             });
  const ConvParams& params = plan.params;
  OutputSpan span{};
  span.n = at.n;
  span.channel = block.first;
  span.channels = plan.filters - block.first < width ? plan.filters - block.first : width;
  span.x = at.x;
  span.x_step = plan.phases.step[1];
  span.pixels = at.cols;
  for (int64_t i = 0; i < at.rows; ++i) {
    span.y = at.y + i * plan.phases.step[0];
    float* row = sums + i * outputs * width;
    const float* slope = plan.prelu_slope + block.first;
    switch (params.output.dtype) {
      case DType::kBFloat16: finish_span<BFloat16, float>(params, span, width, slope, row); break;
      case DType::kFloat16: finish_span<Float16, float>(params, span, width, slope, row); break;
      default: finish_span<float, float>(params, span, width, slope, row); break;
    }
  }
}

template <class W>
DENOISE_EXT_INLINE void winograd_output(const WinogradPlan& plan, const WinogradOutputs& at,
                                        const ChannelBlock& block, const float* m, float* sums) {
  constexpr int kWide = kLanes<float>;
  const bool whole =
      at.rows == W::kOutputs && at.cols == W::kOutputs && block.first + block.vectors * kWide <= plan.filters;
  if (!plan.direct_output || !whole) return winograd_output_any<W>(plan, at, block, m, sums);
  for (int64_t k = 0; k < block.vectors * kWide; k += kWide)
    winograd_output_direct<W>(plan, direct_output(plan, at, block.first + k), m + k, block.first + k);
}

// ---- one block ------------------------------------------------------------------------------------

template <class W>
void winograd_block(const WinogradPlan& plan, int64_t index, int64_t next, void* scratch) {
  constexpr int64_t points = W::kPoints * W::kPoints;
  const int64_t first = index * plan.block_tiles;
  const int64_t tiles = plan.tiles - first < plan.block_tiles ? plan.tiles - first : plan.block_tiles;
  float* v = static_cast<float*>(scratch);
  float* m = v + plan.m_offset;
  float* patch = v + plan.patch_offset;
  float* sums = v + plan.sums_offset;

  for (int64_t t = 0; t < tiles; ++t)
    winograd_input<W>(plan, winograd_tile(plan, first + t), v + t * plan.v_row, patch);

  const int64_t following = plan.direct_input ? next * plan.block_tiles : plan.tiles;
  const int64_t end = following + plan.block_tiles;
  InputPrefetch prefetch{plan, following, end < plan.tiles ? end : plan.tiles};
  const float* u = plan.weight;
  for (const WinogradPhase& phase : plan.phases.phases)
    for (const ChannelBlock& block : plan.blocks) {
      const int64_t width = block.vectors * static_cast<int64_t>(kLanes<float>);
      for (int64_t p = 0; p < points; ++p, u += plan.channels * width)
        winograd_products_of(block.vectors, tiles, v + p * plan.v_point, plan.v_row, u, plan.channels,
                             m + p * plan.m_point, width, prefetch);
      for (int64_t t = 0; t < tiles; ++t)
        winograd_output<W>(plan, winograd_outputs_of<W>(plan, winograd_tile(plan, first + t), phase), block,
                           m + t * width, sums);
    }
  if (plan.stream) finish_stores_past_caches();
}
