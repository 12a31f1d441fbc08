// The products of Winograd's algorithm: at each of the n^2 points a matrix product
//   M[tile][filter] = sum over channels of V[tile][channel] * U[channel][filter].

constexpr int64_t kLineBytes = 64;

// Weights to be read into the second-level cache meanwhile: so many cache lines with each channel. Large
// weights come from the last-level cache or from memory, where a product would wait for them.
struct WeightsAhead {
  const char* line;
  int64_t lines;
};

// m = v times u for kTiles tiles and kVectors vectors of filters: the sums in registers, over the channels of
// the runs. u is [channels][kVectors * lanes], v and m are [vector][tile][lane] with `step` floats from
// vector to vector and kTileStep, known to the compiler, from tile to tile: the inner loop needs no registers
// for addresses. m may be v: a tile is read before it is written.
template <int kTiles, int kVectors, int64_t kTileStep>
DENOISE_EXT_INLINE void winograd_product(const float* v, int64_t step, const float* u,
                                         const WinogradRun* begin, const WinogradRun* end, float* m,
                                         WeightsAhead& ahead) {
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
#pragma GCC unroll 1
        for (int64_t i = 0; i < ahead.lines; ++i, ahead.line += kLineBytes)
          __builtin_prefetch(ahead.line, 0, 2);
#pragma GCC unroll 24
        for (int t = 0; t < kTiles; ++t) {
          const Vec<float> value = broadcast<float>(from[t * kTileStep + c]);
#pragma GCC unroll 4
          for (int k = 0; k < kVectors; ++k) sum[t][k] += value * filter[k];
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int k = 0; k < kVectors; ++k, m += step)
#pragma GCC unroll 24
    for (int t = 0; t < kTiles; ++t) store(m + t * kTileStep, sum[t][k]);
}

// All `tiles`: as many register tiles of kTiles as fit, the rest in halves. Each sum runs over the channels
// in order whatever the register tile, so a tile's result does not depend on its place.
template <int kTiles, int kVectors, int64_t kTileStep, class Prefetch>
void winograd_products(int64_t tiles, const float* v, int64_t step, const float* u, const WinogradRun* begin,
                       const WinogradRun* end, float* m, Prefetch& prefetch, WeightsAhead& ahead) {
  for (; tiles >= kTiles; tiles -= kTiles, v += kTiles * kTileStep, m += kTiles * kTileStep) {
    prefetch.advance();
    winograd_product<kTiles, kVectors, kTileStep>(v, step, u, begin, end, m, ahead);
  }
  if constexpr (kTiles > 1)
    if (tiles > 0)
      winograd_products<kTiles / 2, kVectors, kTileStep>(tiles, v, step, u, begin, end, m, prefetch, ahead);
}

// One block of filters at one point. The weights of the next point or block, `weights` behind u, come next.
template <int64_t kTileStep, class Prefetch>
DENOISE_EXT_INLINE void winograd_products_of(int vectors, int64_t tiles, const float* v, int64_t step,
                                             const float* u, int64_t weights, const WinogradRun* begin,
                                             const WinogradRun* end, float* m, Prefetch& prefetch) {
  const auto run = [&]<int kVectors>() {
    constexpr int kTiles = winograd_register_tiles(kAccumulators, kVectors);
    const int64_t passes = tiles < 2 * kTiles ? 1 : tiles / kTiles;
    WeightsAhead ahead{reinterpret_cast<const char*>(u + weights),
                       divide_up(kVectors * kVectorBytes, kLineBytes * passes)};
    winograd_products<kTiles, kVectors, kTileStep>(tiles, v, step, u, begin, end, m, prefetch, ahead);
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
