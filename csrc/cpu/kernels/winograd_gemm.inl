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

  // One row of the m pixels, of each phase, that the tile does not share with the one to its left.
  DENOISE_EXT_INLINE void step() {
    const Tensor4 &input = plan.params.input, &coarse = plan.params.coarse;
    const int64_t* step = plan.phases.input_step;
    if (row == 0) at = winograd_tile(plan, tile);
    const int64_t y = at.y0 * step[0] + row, x = (at.x0 + plan.points - plan.outputs) * step[1];
    const int64_t pixels = plan.outputs * step[1];
    if (y >= 0 && y < input.size[2] && x + pixels <= input.size[3]) {
      if (plan.direct_input) read(input, y, x, pixels);
      if (plan.direct_coarse && y % 2 == 0) read(coarse, y / 2, (x + 1) / 2, plan.outputs / 2);
    }
    if (++row == plan.points * step[0]) {
      row = 0;
      ++tile;
    }
  }

  DENOISE_EXT_INLINE void read(const Tensor4& image, int64_t y, int64_t x, int64_t pixels) {
    const float* from = static_cast<const float*>(image.data) + at.n * image.stride[0] + y * image.stride[2] +
                        x * image.stride[3];
    for (int64_t pixel = 0; pixel < pixels; ++pixel, from += image.stride[3])
      for (int64_t c = 0; c < image.size[1]; c += 16) __builtin_prefetch(from + c, 0, 2);
  }
};

// Rows of `m` = rows of `v` times u: kTiles x kVectors sums in registers, over the channels of the runs. u is
// [channels][kVectors * lanes]. m may be v: a row is read before it is written.
template <int kTiles, int kVectors>
DENOISE_EXT_INLINE void winograd_product(const float* v, int64_t v_row, const float* u,
                                         const WinogradRun* begin, const WinogradRun* end, float* m,
                                         int64_t m_row) {
  constexpr int kWide = kLanes<float>;
  Vec<float> sum[kTiles][kVectors];
#pragma GCC unroll 24
  for (int t = 0; t < kTiles; ++t)
#pragma GCC unroll 4
    for (int k = 0; k < kVectors; ++k) sum[t][k] = Vec<float>{};
  for (const WinogradRun* run = begin; run != end; ++run) {
    const float* from = v + run->first;
    const float* weights = u + run->first * kVectors * kWide;
    const int64_t channels = run->channels;
#pragma GCC unroll 2
    for (int64_t c = 0; c < channels; ++c, weights += kVectors * kWide) {
      Vec<float> filter[kVectors];
#pragma GCC unroll 4
      for (int k = 0; k < kVectors; ++k) filter[k] = load(weights + k * kWide);
#pragma GCC unroll 24
      for (int t = 0; t < kTiles; ++t) {
        const Vec<float> value = broadcast<float>(from[t * v_row + c]);
#pragma GCC unroll 4
        for (int k = 0; k < kVectors; ++k) sum[t][k] += value * filter[k];
      }
    }
  }
#pragma GCC unroll 24
  for (int t = 0; t < kTiles; ++t)
#pragma GCC unroll 4
    for (int k = 0; k < kVectors; ++k) store(m + t * m_row + k * kWide, sum[t][k]);
}

// All `tiles` rows: as many register tiles of kTiles as fit, the rest in halves. Each sum runs over the
// channels in order whatever the register tile, so a tile's result does not depend on its place.
template <int kTiles, int kVectors, class Prefetch>
void winograd_products(int64_t tiles, const float* v, int64_t v_row, const float* u, const WinogradRun* begin,
                       const WinogradRun* end, float* m, int64_t m_row, Prefetch& prefetch) {
  int64_t t = 0;
  for (; t + kTiles <= tiles; t += kTiles) {
    prefetch.advance();
    winograd_product<kTiles, kVectors>(v + t * v_row, v_row, u, begin, end, m + t * m_row, m_row);
  }
  if constexpr (kTiles > 1)
    if (t < tiles)
      winograd_products<kTiles / 2, kVectors>(tiles - t, v + t * v_row, v_row, u, begin, end, m + t * m_row,
                                              m_row, prefetch);
}

// One block of filters at one point.
template <class Prefetch>
DENOISE_EXT_INLINE void winograd_products_of(int vectors, int64_t tiles, const float* v, int64_t v_row,
                                             const float* u, const WinogradRun* begin, const WinogradRun* end,
                                             float* m, int64_t m_row, Prefetch& prefetch) {
  const auto run = [&]<int kVectors>() {
    constexpr int kTiles = winograd_register_tiles(kAccumulators, kVectors);
    winograd_products<kTiles, kVectors>(tiles, v, v_row, u, begin, end, m, m_row, prefetch);
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
