// The gradient of a 3x3 convolution's weight by Winograd's algorithm over one chunk of tiles: blocks of
// tiles are transformed, their outer products summed at each of the 36 points, the sums transformed back.

// ---- transforms -----------------------------------------------------------------------------------

// The transposes of Winograd4's, at its points 0, +-a, +-2a, infinity. The row of infinity is left
// without the factors 1 / a^3 and a^3 that cancel between the two.
struct WinogradTransposed4 {
  static constexpr float a = static_cast<float>(Winograd4::a);

  // z = A y: 4 gradients of outputs to 6 points
  static DENOISE_EXT_INLINE void output(const Vec<float>* y, Vec<float>* z) {
    z[0] = y[0];
    const Vec<float> even_a = y[0] + (a * a) * y[2], odd_a = a * y[1] + (a * a * a) * y[3];
    z[1] = even_a + odd_a;
    z[2] = even_a - odd_a;
    const Vec<float> even_b = y[0] + (4 * a * a) * y[2], odd_b = (2 * a) * y[1] + (8 * a * a * a) * y[3];
    z[3] = even_b + odd_b;
    z[4] = even_b - odd_b;
    z[5] = y[3];
  }

  // g = G^T u: 6 points to 3 taps
  static DENOISE_EXT_INLINE void filter(const Vec<float>* u, Vec<float>* g) {
    constexpr float a2 = a * a, b2 = 4 * a2;
    const Vec<float> sum_a = u[1] + u[2], sum_b = u[3] + u[4];
    g[0] = u[0] * (1 / (a2 * b2)) + (sum_a * (1 / (2 * a2 * (a2 - b2))) + sum_b * (1 / (2 * b2 * (b2 - a2))));
    g[1] = (u[1] - u[2]) * (1 / (2 * a * (a2 - b2))) + (u[3] - u[4]) * (1 / (4 * a * (b2 - a2)));
    g[2] = (sum_a * (1 / (2 * (a2 - b2))) + sum_b * (1 / (2 * (b2 - a2)))) + u[5];
  }
};

// Z = A dy A^T for one vector of channels; columns of Z in as many passes as the registers need.
DENOISE_EXT_INLINE void winograd_gradient_slice(const float* y, int64_t row, int64_t col, float* z,
                                                int64_t point_stride) {
  constexpr int kPasses = kAccumulators >= 24 ? 1 : 3, kRows = 6 / kPasses;
  const auto pass = [&]<int kPass>() __attribute__((always_inline)) {
    Vec<float> rows[kRows][4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      Vec<float> column[4], transformed[6];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) column[i] = load(y + i * row + j * col);
      WinogradTransposed4::output(column, transformed);  // what is not kept is dead code
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r) rows[r][j] = transformed[kPass * kRows + r];
    }
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      Vec<float> transformed[6];
      WinogradTransposed4::output(rows[r], transformed);
#pragma GCC unroll 6
      for (int j = 0; j < 6; ++j) store(z + ((kPass * kRows + r) * 6 + j) * point_stride, transformed[j]);
    }
  };
  pass.template operator()<0>();
  if constexpr (kPasses > 1) {
    pass.template operator()<1>();
    pass.template operator()<2>();
  }
}

// G^T M G for one fine channel and one vector of coarse ones, to the nine taps of a partial gradient.
DENOISE_EXT_INLINE void winograd_weight_slice(const float* m, int64_t point_stride, float* partial,
                                              int64_t tap_stride) {
  Vec<float> rows[3][6];
#pragma GCC unroll 6
  for (int j = 0; j < 6; ++j) {
    Vec<float> column[6], transformed[3];
#pragma GCC unroll 6
    for (int i = 0; i < 6; ++i) column[i] = load(m + (i * 6 + j) * point_stride);
    WinogradTransposed4::filter(column, transformed);
#pragma GCC unroll 3
    for (int u = 0; u < 3; ++u) rows[u][j] = transformed[u];
  }
#pragma GCC unroll 3
  for (int u = 0; u < 3; ++u) {
    Vec<float> transformed[3];
    WinogradTransposed4::filter(rows[u], transformed);
#pragma GCC unroll 3
    for (int v = 0; v < 3; ++v) store(partial + (u * 3 + v) * tap_stride, transformed[v]);
  }
}

// ---- products -------------------------------------------------------------------------------------

// Reads the next block's pixels into the second-level cache while this block's products are computed.
struct WinogradWeightGradPrefetch {
  const WinogradWeightGradPlan& plan;
  int64_t tile, end;  // next tile to read, and where to stop
  int64_t fine_channel, coarse_channel;
  int64_t row = 0;  // of the next tile

  // Four pixels of one row: a tile's share, the other two belong to its neighbour.
  static DENOISE_EXT_INLINE void read(const Tensor4& tensor, int64_t n, int64_t y, int64_t x, int64_t channel,
                                      int64_t channels) {
    if (y < 0 || y >= tensor.size[2] || x < 0 || x + 4 > tensor.size[3]) return;
    const float* pixel = static_cast<const float*>(tensor.data) + n * tensor.stride[0] +
                         y * tensor.stride[2] + x * tensor.stride[3] + channel;
    for (int j = 0; j < 4; ++j, pixel += tensor.stride[3])
      for (int64_t c = 0; c < channels; c += 64 / static_cast<int64_t>(sizeof(float)))
        __builtin_prefetch(pixel + c, 0, 2);
  }

  DENOISE_EXT_INLINE void step() {
    if (tile >= end) return;
    const int64_t per_image = plan.tiles_y * plan.tiles_x, n = tile / per_image;
    const int64_t y = tile % per_image / plan.tiles_x * 4 + row, x = tile % plan.tiles_x * 4;
    const ConvWeightGradParams& params = plan.params;
    if (plan.direct_coarse) read(params.coarse, n, y, x, coarse_channel, plan.z_row);
    if (plan.direct_fine)
      read(params.fine, n, y + 2 - params.padding[0], x + 2 - params.padding[1], fine_channel, plan.v_row);
    if (++row == 4) {
      row = 0;
      ++tile;
    }
  }
};

// Rows of transformed tiles at one point, and the sums of their outer products.
struct WinogradOuter {
  const float *v, *z;  // [tiles][v_row], [tiles][z_row]
  int64_t v_row, z_row, tiles;
  float* m;  // [fine channels][m_row]
  int64_t m_row;
  bool add;  // to what m holds
  WinogradWeightGradPrefetch* prefetch;
};

template <int kRows, int kVectors>
DENOISE_EXT_INLINE void winograd_outer(const WinogradOuter& at, int64_t c, int64_t k) {
  constexpr int kWide = kLanes<float>;
  float* m = at.m + c * at.m_row + k;
  Vec<float> sum[kRows][kVectors];
#pragma GCC unroll 24
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) sum[r][i] = at.add ? load(m + r * at.m_row + i * kWide) : Vec<float>{};
  const float *v = at.v + c, *z = at.z + k;
#pragma GCC unroll 2
  for (int64_t t = 0; t < at.tiles; ++t, v += at.v_row, z += at.z_row) {
    Vec<float> gradient[kVectors];
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) gradient[i] = load(z + i * kWide);
#pragma GCC unroll 24
    for (int r = 0; r < kRows; ++r) {
      const Vec<float> value = broadcast<float>(v[r]);
#pragma GCC unroll 4
      for (int i = 0; i < kVectors; ++i) sum[r][i] += value * gradient[i];
    }
  }
#pragma GCC unroll 24
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) store(m + r * at.m_row + i * kWide, sum[r][i]);
}

// Fine channels [c, channels): register tiles of kRows while they fit, the rest in halves.
template <int kRows, int kVectors>
void winograd_outer_rows(const WinogradOuter& at, int64_t c, int64_t channels, int64_t k) {
  for (; c + kRows <= channels; c += kRows) {
    at.prefetch->step();
    winograd_outer<kRows, kVectors>(at, c, k);
  }
  if constexpr (kRows > 1)
    if (c < channels) winograd_outer_rows<kRows / 2, kVectors>(at, c, channels, k);
}

template <int kVectors>
void winograd_outer_of(const WinogradOuter& at, int64_t channels, int64_t k) {
  constexpr int kRows = kAccumulators / kVectors < 12 ? kAccumulators / kVectors : 12;
  winograd_outer_rows<kRows, kVectors>(at, 0, channels, k);
}

void winograd_outers(const WinogradOuter& at, int64_t channels, int vectors) {
  constexpr int kWidest = kAccumulators >= 24 ? 4 : 2;
  for (int first = 0; first < vectors;) {
    const int parts = (vectors - first + kWidest - 1) / kWidest;
    const int count = (vectors - first + parts - 1) / parts;
    const int64_t k = first * static_cast<int64_t>(kLanes<float>);
    switch (count) {
      case 1: winograd_outer_of<1>(at, channels, k); break;
      case 2: winograd_outer_of<2>(at, channels, k); break;
      default:
        if constexpr (kWidest == 4) {
          if (count == 3) winograd_outer_of<3>(at, channels, k);
          if (count == 4) winograd_outer_of<4>(at, channels, k);
        }
    }
    first += count;
  }
}

// ---- one task -------------------------------------------------------------------------------------

// A tile's pixels, `size` x `size` of them: where they lie if `direct` and inside the image, else a copy.
struct WinogradPixels {
  const float* from;
  int64_t row, col;
};

DENOISE_EXT_INLINE WinogradPixels winograd_pixels(const Tensor4& tensor, bool direct, PackWindow window,
                                                  int64_t width, float* patch) {
  const bool inside = window.y0 >= 0 && window.x0 >= 0 && window.y0 + window.rows <= tensor.size[2] &&
                      window.x0 + window.cols <= tensor.size[3];
  if (direct && inside)
    return {static_cast<const float*>(tensor.data) + window.n * tensor.stride[0] + window.first_channel +
                window.y0 * tensor.stride[2] + window.x0 * tensor.stride[3],
            tensor.stride[2], tensor.stride[3]};
  pack<float>(tensor, window, {window.cols, width}, patch);
  return {patch, window.cols * width, width};
}

// Calls f(first) for vectors of channels; the last overlaps the one before rather than read past them.
template <class F>
DENOISE_EXT_INLINE void for_each_slice(int64_t channels, const F& f) {
  constexpr int kWide = kLanes<float>;
  for (int64_t c = 0; c < channels; c += kWide) f(c + kWide <= channels ? c : channels - kWide);
}

struct WinogradWeightGradTask {
  int64_t chunk;
  PackWindow fine, coarse;  // n, y0 and x0 are a tile's
  int vectors;              // of coarse channels
  float *v, *z, *m, *patch;
};

DENOISE_EXT_INLINE void winograd_weight_grad_tile(const WinogradWeightGradPlan& plan,
                                                  WinogradWeightGradTask& task, int64_t tile, float* v,
                                                  float* z) {
  const ConvWeightGradParams& params = plan.params;
  const int64_t per_image = plan.tiles_y * plan.tiles_x;
  task.fine.n = task.coarse.n = tile / per_image;
  task.coarse.y0 = tile % per_image / plan.tiles_x * 4;
  task.coarse.x0 = tile % plan.tiles_x * 4;
  task.fine.y0 = task.coarse.y0 - params.padding[0];
  task.fine.x0 = task.coarse.x0 - params.padding[1];
  const WinogradPixels d = winograd_pixels(params.fine, plan.direct_fine, task.fine, plan.v_row, task.patch);
  for_each_slice(task.fine.channels, [&](int64_t c) {
    winograd_input_slice<Winograd4>(d.from + c, d.row, d.col, v + c, plan.v_point);
  });
  const WinogradPixels y =
      winograd_pixels(params.coarse, plan.direct_coarse, task.coarse, plan.z_row, task.patch);
  for_each_slice(task.coarse.channels,
                 [&](int64_t c) { winograd_gradient_slice(y.from + c, y.row, y.col, z + c, plan.z_point); });
}

DENOISE_EXT_INLINE void winograd_weight_grad_chunk(const WinogradWeightGradPlan& plan,
                                                   WinogradWeightGradTask& task) {
  const int64_t chunks = plan.partials.chunks;
  const int64_t begin = plan.tiles() * task.chunk / chunks, end = plan.tiles() * (task.chunk + 1) / chunks;
  for (int64_t first = begin; first < end; first += plan.block_tiles) {
    const int64_t tiles = end - first < plan.block_tiles ? end - first : plan.block_tiles;
    for (int64_t t = 0; t < tiles; ++t)
      winograd_weight_grad_tile(plan, task, first + t, task.v + t * plan.v_row, task.z + t * plan.z_row);
    const int64_t next = first + tiles, next_end = next + plan.block_tiles;
    WinogradWeightGradPrefetch prefetch{plan, next, next_end < end ? next_end : end, task.fine.first_channel,
                                        task.coarse.first_channel};
    for (int64_t p = 0; p < 36; ++p) {
      const WinogradOuter outer{task.v + p * plan.v_point,
                                task.z + p * plan.z_point,
                                plan.v_row,
                                plan.z_row,
                                tiles,
                                task.m + p * plan.m_point,
                                plan.z_row,
                                first > begin,
                                &prefetch};
      winograd_outers(outer, task.fine.channels, task.vectors);
    }
  }
}

void winograd_weight_grad_task(const WinogradWeightGradPlan& plan, int64_t index, void* scratch) {
  const WeightGradPartials& partials = plan.partials;
  const int64_t fine_block = index % plan.fine_blocks, whole = index / plan.fine_blocks;
  const WeightGradPartials::Task at = partials.task(whole);
  const int64_t width = at.block.vectors * static_cast<int64_t>(kLanes<float>);
  const int64_t coarse_left = partials.group_coarse - at.block.first;
  const int64_t fine_first = partials.group_fine * fine_block / plan.fine_blocks;
  const int64_t fine_last = partials.group_fine * (fine_block + 1) / plan.fine_blocks;

  WinogradWeightGradTask task{};
  task.chunk = at.chunk;
  task.vectors = at.block.vectors;
  task.v = static_cast<float*>(scratch);
  task.z = task.v + plan.z_offset;
  task.m = task.v + plan.m_offset;
  task.patch = task.v + plan.patch_offset;
  task.fine.rows = task.fine.cols = 6;
  task.fine.first_channel = at.group * partials.group_fine + fine_first;
  task.fine.channels = fine_last - fine_first;
  task.coarse.rows = task.coarse.cols = 4;
  task.coarse.first_channel = at.group * partials.group_coarse + at.block.first;
  task.coarse.channels = coarse_left < width ? coarse_left : width;
  task.fine.repeat = task.coarse.repeat = 1;
  winograd_weight_grad_chunk(plan, task);

  float* partial = static_cast<float*>(partials.data) + whole * partials.elements + fine_first * width;
  for (int64_t c = 0; c < task.fine.channels; ++c)
    for (int64_t k = 0; k < width; k += kLanes<float>)
      winograd_weight_slice(task.m + c * plan.z_row + k, plan.m_point, partial + c * width + k,
                            partials.group_fine * width);
}
