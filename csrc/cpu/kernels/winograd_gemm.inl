// The products of Winograd's algorithm: at each of the n^2 points a matrix product
//   M[tile][filter] = sum over channels of V[tile][channel] * U[channel][filter].

// Reads the next block's input into the second-level cache while this block's products are computed,
// a few cache lines per call.
struct InputPrefetch {
  const WinogradPlan& plan;
  int64_t tile, last;            // next tile to read, and the end
  int64_t row = 0, y = 0;        // next input row of that tile, counted in the tile and in the image
  bool inside = false;           // the tile's columns
  int64_t fine = 0, coarse = 0;  // where the row's pixels are, and at even rows those of the coarse image

  DENOISE_EXT_INLINE void advance() {
    for (int i = 0; i < plan.prefetch_steps && tile < last; ++i) step();
  }

  // One row of the m pixels, of each phase, that the tile does not share with the one to its left.
  DENOISE_EXT_INLINE void step() {
    const Tensor4& input = plan.params.input;
    const int64_t pixels = plan.outputs * plan.phases.input_step[1];
    if (row == 0) begin();
    if (inside && y >= 0 && y < input.size[2]) {
      if (plan.direct_input) read(input, fine, pixels);
      if (plan.direct_coarse && y % 2 == 0) read(plan.params.coarse, coarse, plan.outputs / 2);
    }
    fine += input.stride[2];
    if (y % 2 != 0) coarse += plan.params.coarse.stride[2];
    ++y;
    if (++row == plan.points * plan.phases.input_step[0]) {
      row = 0;
      ++tile;
    }
  }

  void begin() {
    const Tensor4& input = plan.params.input;
    const int64_t* step = plan.phases.input_step;
    const WinogradTile at = winograd_tile(plan, tile);
    const int64_t x = (at.x0 + plan.points - plan.outputs) * step[1];
    y = at.y0 * step[0];
    inside = x + plan.outputs * step[1] <= input.size[3];
    fine = place(input, at.n, y, x);
    coarse = place(plan.params.coarse, at.n, y < 0 ? -1 : y / 2, (x + 1) / 2);
  }

  static int64_t place(const Tensor4& image, int64_t n, int64_t y, int64_t x) {
    return n * image.stride[0] + y * image.stride[2] + x * image.stride[3];
  }

  static DENOISE_EXT_INLINE void read(const Tensor4& image, int64_t at, int64_t pixels) {
    const float* from = static_cast<const float*>(image.data) + at;
    const bool dense = image.stride[3] == image.size[1];
    const int64_t length = dense ? pixels * image.size[1] : image.size[1];
    for (int64_t pixel = 0; pixel < (dense ? 1 : pixels); ++pixel, from += image.stride[3])
      for (int64_t c = 0; c < length; c += 16) __builtin_prefetch(from + c, 0, 2);
  }
};

// m = v times u for kTiles tiles and kVectors vectors of filters: the sums in registers, over the channels of
// the runs. u is [channels][kVectors * lanes], v and m are [vector][tile][lane] with `step` floats from
// vector to vector. m may be v: a tile is read before it is written.
template <int kTiles, int kVectors>
DENOISE_EXT_INLINE void winograd_product(const float* v, int64_t step, const float* u,
                                         const WinogradRun* begin, const WinogradRun* end, float* m) {
  constexpr int kWide = kLanes<float>;
  Vec<float> sum[kTiles][kVectors];
#pragma GCC unroll 24
  for (int t = 0; t < kTiles; ++t)
#pragma GCC unroll 4
    for (int k = 0; k < kVectors; ++k) sum[t][k] = Vec<float>{};
  for (const WinogradRun* run = begin; run != end; ++run) {
    const float* from = v + run->vector * step + run->lane;
    const float* weights = u + run->first * kVectors * kWide;
    for (int64_t left = run->channels; left > 0; left -= kWide, from += step) {
      const int64_t channels = left < kWide ? left : kWide;
#pragma GCC unroll 2
      for (int64_t c = 0; c < channels; ++c, weights += kVectors * kWide) {
        Vec<float> filter[kVectors];
#pragma GCC unroll 4
        for (int k = 0; k < kVectors; ++k) filter[k] = load(weights + k * kWide);
#pragma GCC unroll 24
        for (int t = 0; t < kTiles; ++t) {
          const Vec<float> value = broadcast<float>(from[t * kWide + c]);
#pragma GCC unroll 4
          for (int k = 0; k < kVectors; ++k) sum[t][k] += value * filter[k];
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int k = 0; k < kVectors; ++k, m += step)
#pragma GCC unroll 24
    for (int t = 0; t < kTiles; ++t) store(m + t * kWide, sum[t][k]);
}

// All `tiles`: as many register tiles of kTiles as fit, the rest in halves. Each sum runs over the channels
// in order whatever the register tile, so a tile's result does not depend on its place.
template <int kTiles, int kVectors, class Prefetch>
void winograd_products(int64_t tiles, const float* v, int64_t step, const float* u, const WinogradRun* begin,
                       const WinogradRun* end, float* m, Prefetch& prefetch) {
  constexpr int kWide = kLanes<float>;
  for (; tiles >= kTiles; tiles -= kTiles, v += kTiles * kWide, m += kTiles * kWide) {
    prefetch.advance();
    winograd_product<kTiles, kVectors>(v, step, u, begin, end, m);
  }
  if constexpr (kTiles > 1)
    if (tiles > 0) winograd_products<kTiles / 2, kVectors>(tiles, v, step, u, begin, end, m, prefetch);
}

// One block of filters at one point.
template <class Prefetch>
DENOISE_EXT_INLINE void winograd_products_of(int vectors, int64_t tiles, const float* v, int64_t step,
                                             const float* u, const WinogradRun* begin, const WinogradRun* end,
                                             float* m, Prefetch& prefetch) {
  const auto run = [&]<int kVectors>() {
    constexpr int kTiles = winograd_register_tiles(kAccumulators, kVectors);
    winograd_products<kTiles, kVectors>(tiles, v, step, u, begin, end, m, prefetch);
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
