// The products of Winograd's algorithm: at each of the n^2 points a matrix product
//   M[tile][filter] = sum over channels of V[tile][channel] * U[channel][filter].

// Reads the next block's input into the second-level cache while this block's products are computed,
// a few cache lines per call.
struct InputPrefetch {
  const WinogradPlan& plan;
  int64_t tile, last;  // next tile to read, and the end
  int64_t row = 0;     // next input row of that tile
  WinogradTile at = {};

  DENOISE_EXT_INLINE void advance() {
    for (int i = 0; i < plan.prefetch_steps && tile < last; ++i) step();
  }

  // One row of the m pixels that the tile does not share with the one to its left.
  DENOISE_EXT_INLINE void step() {
    const Tensor4 &input = plan.params.input, &coarse = plan.params.coarse;
    if (row == 0) at = winograd_tile(plan, tile);
    const int64_t y = at.y0 + row, x = at.x0 + plan.points - plan.outputs;
    if (y >= 0 && y < input.size[2] && x + plan.outputs <= input.size[3]) {
      if (plan.direct_input) read(input, y, x, plan.outputs);
      if (plan.direct_coarse && y % 2 == 0) read(coarse, y / 2, (x + 1) / 2, plan.outputs / 2);
    }
    if (++row == plan.points) {
      row = 0;
      ++tile;
    }
  }

  DENOISE_EXT_INLINE void read(const Tensor4& image, int64_t y, int64_t x, int pixels) {
    const float* from = static_cast<const float*>(image.data) + at.n * image.stride[0] + y * image.stride[2] +
                        x * image.stride[3];
    for (int pixel = 0; pixel < pixels; ++pixel, from += image.stride[3])
      for (int64_t c = 0; c < image.size[1]; c += 16) __builtin_prefetch(from + c, 0, 2);
  }
};

// Rows of `m` = rows of `v` times u: kTiles x kVectors sums in registers. v has `channels` used elements
// per row, u is [channels][kVectors * lanes]. m may be v: a row is read before it is written.
template <int kTiles, int kVectors>
DENOISE_EXT_INLINE void winograd_product(const float* v, int64_t v_row, const float* u, int64_t channels,
                                         float* m, int64_t m_row) {
  constexpr int kWide = kLanes<float>;
  Vec<float> sum[kTiles][kVectors];
#pragma GCC unroll 24
  for (int t = 0; t < kTiles; ++t)
#pragma GCC unroll 4
    for (int k = 0; k < kVectors; ++k) sum[t][k] = Vec<float>{};
#pragma GCC unroll 2
  for (int64_t c = 0; c < channels; ++c, u += kVectors * kWide) {
    Vec<float> filter[kVectors];
#pragma GCC unroll 4
    for (int k = 0; k < kVectors; ++k) filter[k] = load(u + k * kWide);
#pragma GCC unroll 24
    for (int t = 0; t < kTiles; ++t) {
      const Vec<float> value = broadcast<float>(v[t * v_row + c]);
#pragma GCC unroll 4
      for (int k = 0; k < kVectors; ++k) sum[t][k] += value * filter[k];
    }
  }
#pragma GCC unroll 24
  for (int t = 0; t < kTiles; ++t)
#pragma GCC unroll 4
    for (int k = 0; k < kVectors; ++k) store(m + t * m_row + k * kWide, sum[t][k]);
}

// All `tiles` rows: as many register tiles of kTiles as fit, the rest in halves. Each sum runs over the
// channels in order whatever the register tile, so a tile's result does not depend on its place.
template <int kTiles, int kVectors>
void winograd_products(int64_t tiles, const float* v, int64_t v_row, const float* u, int64_t channels,
                       float* m, int64_t m_row, InputPrefetch& prefetch) {
  int64_t t = 0;
  for (; t + kTiles <= tiles; t += kTiles) {
    prefetch.advance();
    winograd_product<kTiles, kVectors>(v + t * v_row, v_row, u, channels, m + t * m_row, m_row);
  }
  if constexpr (kTiles > 1)
    if (t < tiles)
      winograd_products<kTiles / 2, kVectors>(tiles - t, v + t * v_row, v_row, u, channels, m + t * m_row,
                                              m_row, prefetch);
}

// One block of filters at one point.
DENOISE_EXT_INLINE void winograd_products_of(int vectors, int64_t tiles, const float* v, int64_t v_row,
                                             const float* u, int64_t channels, float* m, int64_t m_row,
                                             InputPrefetch& prefetch) {
  const auto run = [&]<int kVectors>() {
    constexpr int kTiles = winograd_register_tiles(kAccumulators, kVectors);
    winograd_products<kTiles, kVectors>(tiles, v, v_row, u, channels, m, m_row, prefetch);
  };
  switch (vectors) {
    case 1: return run.template operator()<1>();
    case 2: return run.template operator()<2>();
    default: break;
  }
  if constexpr (kAccumulators >= 24) {
    if (vectors == 3) return run.template operator()<3>();
    return run.template operator()<4>();
  }
}
