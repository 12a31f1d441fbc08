// The gradient of a convolution's weight with ordinary arithmetic, by the matrix product of
// conv_weight_grad_gather.cuh: float32 that must not be rounded, bfloat16 where there are no matrix
// instructions for it, float64. Any geometry, layout and number of groups.
//
// A warp has kThreadRows rows of the tile, whose factors all its lanes read together, and a lane kThreadCols
// neighbouring columns. Where the tile has fewer rows and columns than warps, warps share the pixels of a
// piece, and their sums are added in order at the end.
#include "conv_weight_grad_gather.cuh"

namespace denoise_ext::cuda {
namespace {

// Blocks per multiprocessor to leave registers for: 128 a thread.
constexpr int kBlocks = 2;
constexpr int kWarps = kGatherThreads / 32;

// kCount factors beside each other, as numbers.
template <class Storage, class Acc, int kCount>
__device__ __forceinline__ void load_factors(const Storage* from, Acc (&x)[kCount]) {
  if constexpr (sizeof(Storage) == 2) {
#pragma unroll
    for (int i = 0; i < kCount / 4; ++i) {
      const uint2 words = reinterpret_cast<const uint2*>(from)[i];
      float low[2], high[2];
      unpack_word(words.x, low, Storage{});
      unpack_word(words.y, high, Storage{});
      x[4 * i] = low[0];
      x[4 * i + 1] = low[1];
      x[4 * i + 2] = high[0];
      x[4 * i + 3] = high[1];
    }
  } else {
    using Vector = std::conditional_t<sizeof(Storage) == 8, double2, float4>;
    constexpr int kEach = static_cast<int>(sizeof(Vector) / sizeof(Storage));
#pragma unroll
    for (int i = 0; i < kCount / kEach; ++i) {
      const Vector vector = reinterpret_cast<const Vector*>(from)[i];
      x[kEach * i] = vector.x;
      x[kEach * i + 1] = vector.y;
      if constexpr (kEach == 4) {
        x[4 * i + 2] = vector.z;
        x[4 * i + 3] = vector.w;
      }
    }
  }
}

template <class Tile, int kThreadRows, int kThreadCols>
__global__ void __launch_bounds__(kGatherThreads, kBlocks)
    weight_grad_tiled_kernel(ConvWeightGradParams p, WeightGradLayout layout, typename Tile::Acc* partials,
                             int parts) {
  using Storage = typename Tile::Storage;
  using Acc = typename Tile::Acc;
  constexpr int kAcross = Tile::kCols / (32 * kThreadCols);  // warps beside each other
  constexpr int kDown = Tile::kRows / kThreadRows;
  constexpr int kSlices = kWarps / (kAcross * kDown), kSlicePixels = Tile::kPixels / kSlices;
  static_assert(kSlices * kAcross * kDown == kWarps && kSlicePixels * kSlices == Tile::kPixels);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int slice = warp / (kAcross * kDown);
  const int row = warp / kAcross % kDown * kThreadRows;
  const int col = warp % kAcross * 32 * kThreadCols + lane * kThreadCols;

  const GatherBlock block = gather_block<Tile>(p, parts);
  Gather<Tile> gather(p, layout, block);
  Acc sums[kThreadRows][kThreadCols] = {};
  gather.walk([](const uint4& vector) { return vector; },
              [&](const Storage* coarse, const Storage* fine) {
#pragma unroll 4
                for (int i = 0; i < kSlicePixels; ++i) {
                  const int pixel = slice * kSlicePixels + i;
                  Acc a[kThreadRows], b[kThreadCols];
                  load_factors(coarse + pixel * Tile::kRowPitch + row, a);
                  load_factors(fine + pixel * Tile::kColPitch + col, b);
#pragma unroll
                  for (int r = 0; r < kThreadRows; ++r)
#pragma unroll
                    for (int c = 0; c < kThreadCols; ++c) sums[r][c] += a[r] * b[c];
                }
              });
  Acc* const partial = partials + blockIdx.y * partial_count(p);
  gather.store_bias(partial);
  if constexpr (kSlices > 1) {
    constexpr int kSums = kThreadRows * kThreadCols, kOthers = (kSlices - 1) * kAcross * kDown * 32;
    static_assert(kOthers * kSums <= Gather<Tile>::kScratch);
    const int place = static_cast<int>(threadIdx.x) % (kAcross * kDown * 32);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kSums; ++i)
      if (slice > 0)
        gather.scratch()[i * kOthers + static_cast<int>(threadIdx.x) - kAcross * kDown * 32] =
            sums[i / kThreadCols][i % kThreadCols];
    __syncthreads();
    if (slice > 0) return;
#pragma unroll
    for (int other = 0; other + 1 < kSlices; ++other)
#pragma unroll
      for (int i = 0; i < kSums; ++i)
        sums[i / kThreadCols][i % kThreadCols] +=
            gather.scratch()[i * kOthers + other * kAcross * kDown * 32 + place];
  }
#pragma unroll
  for (int r = 0; r < kThreadRows; ++r)
#pragma unroll
    for (int c = 0; c < kThreadCols; ++c) gather.store_sum(partial, row + r, col + c, sums[r][c]);
}

template <class Storage, int kRows, int kCols, int kPixels, int kThreadRows, int kThreadCols>
int launch_tile(const ConvWeightGradParams& params, const LaunchContext& context) {
  using Tile = GatherTile<Storage, kRows, kCols, kPixels>;
  using Acc = typename Tile::Acc;
  const WeightGradTile tile{kRows, kCols};
  const int parts = weight_grad_tile_parts(params, tile, context.limits);
  Acc* const partials = static_cast<Acc*>(context.workspace);
  const dim3 grid(static_cast<unsigned>(weight_grad_tile_blocks(params, tile)), static_cast<unsigned>(parts));
  const int code = launch(weight_grad_tiled_kernel<Tile, kThreadRows, kThreadCols>, grid,
                          dim3(kGatherThreads), Gather<Tile>::shared_bytes(), context.stream, params,
                          weight_grad_layout(params), partials, parts);
  return code != 0 ? code : sum_weight_parts<Storage, Acc>(params, partials, parts, context.stream);
}

}  // namespace

int weight_grad_tiled_launch(const ConvWeightGradParams& params, const LaunchContext& context) {
  constexpr WeightGradTile kTile = kWeightGradTiledTile, kThin = kWeightGradTiledThinTile,
                           kDouble = kWeightGradTiledDoubleTile;
  const bool thin = weight_grad_tiled_tile(params).rows == kThin.rows;
  switch (params.coarse.dtype) {
    case DType::kFloat64: return launch_tile<double, kDouble.rows, kDouble.cols, 8, 8, 2>(params, context);
    case DType::kBFloat16: return launch_tile<BFloat16, kTile.rows, kTile.cols, 16, 8, 4>(params, context);
    case DType::kFloat32:
      return thin ? launch_tile<float, kThin.rows, kThin.cols, 16, 4, 4>(params, context)
                  : launch_tile<float, kTile.rows, kTile.cols, 16, 8, 4>(params, context);
    default: return static_cast<int>(cudaErrorInvalidValue);
  }
}

}  // namespace denoise_ext::cuda
