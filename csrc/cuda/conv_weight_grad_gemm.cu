// The gradient of a convolution's weight on tensor cores, by the matrix product of
// conv_weight_grad_gather.cuh: float16, bfloat16 and, in tf32, float32. Any geometry, layout and number of
// groups; sums in float.
//
// A warp has 32 columns and 16 or 32 rows of the tile. Pixels are what a matrix product sums over, and both
// factors lie in shared memory pixel by pixel: ldmatrix reads the transposes of 16-bit ones, and single
// loads, which meet no bank twice, read those of tf32.
#include "conv_weight_grad_gather.cuh"

namespace denoise_ext::cuda {
namespace {

// Blocks per multiprocessor to leave registers for: 128 a thread.
constexpr int kBlocks = 2;
constexpr int kWarpCols = 32;

// What the matrix products take: float rounded to tf32, 16-bit elements as they are.
template <class Storage>
__device__ __forceinline__ uint4 rounded(const uint4& vector) {
  if constexpr (sizeof(Storage) == 4)
    return uint4{to_tf32(__uint_as_float(vector.x)), to_tf32(__uint_as_float(vector.y)),
                 to_tf32(__uint_as_float(vector.z)), to_tf32(__uint_as_float(vector.w))};
  return vector;
}

// sums += the products of kStep pixels; the pointers are to the first pixel's row and column of the warp.
template <class Tile, int kRowTiles>
__device__ __forceinline__ void multiply_step(const float* coarse, const float* fine,
                                              float (&sums)[kRowTiles][kWarpCols / 8][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  uint32_t a[kRowTiles][4];
#pragma unroll
  for (int row = 0; row < kRowTiles; ++row)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      a[row][i] = __float_as_uint(coarse[(t + i / 2 * 4) * Tile::kRowPitch + row * 16 + i % 2 * 8 + g]);
#pragma unroll
  for (int col = 0; col < kWarpCols / 8; ++col) {
    const uint32_t b[2] = {__float_as_uint(fine[t * Tile::kColPitch + col * 8 + g]),
                           __float_as_uint(fine[(t + 4) * Tile::kColPitch + col * 8 + g])};
#pragma unroll
    for (int row = 0; row < kRowTiles; ++row) mma_m16n8k8_tf32(sums[row][col], a[row], b);
  }
}

template <class Tile, int kRowTiles, class Storage>
__device__ __forceinline__ void multiply_step(const Storage* coarse, const Storage* fine,
                                              float (&sums)[kRowTiles][kWarpCols / 8][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32, matrix = lane / 8, i = lane % 8;
  uint32_t a[kRowTiles][4];
  // Matrices (channels 0-7, pixels 0-7), (8-15, 0-7), (0-7, 8-15), (8-15, 8-15), transposed.
#pragma unroll
  for (int row = 0; row < kRowTiles; ++row)
    ldmatrix_trans<4>(a[row], coarse + (i + matrix / 2 * 8) * Tile::kRowPitch + row * 16 + matrix % 2 * 8);
#pragma unroll
  for (int pair = 0; pair < kWarpCols / 16; ++pair) {
    // Matrices (pixels 0-7, columns 0-7), (8-15, 0-7), (0-7, 8-15), (8-15, 8-15), transposed.
    uint32_t b[4];
    ldmatrix_trans<4>(b, fine + (i + matrix % 2 * 8) * Tile::kColPitch + pair * 16 + matrix / 2 * 8);
#pragma unroll
    for (int row = 0; row < kRowTiles; ++row) {
      mma_16_bit(sums[row][2 * pair], a[row], {b[0], b[1]}, Storage{});
      mma_16_bit(sums[row][2 * pair + 1], a[row], {b[2], b[3]}, Storage{});
    }
  }
}

template <class Tile, int kRowTiles>
__global__ void __launch_bounds__(kGatherThreads, kBlocks)
    weight_grad_gemm_kernel(ConvWeightGradParams p, WeightGradLayout layout, float* partials, int parts) {
  using Storage = typename Tile::Storage;
  constexpr int kStep = 32 / static_cast<int>(sizeof(Storage));  // pixels that one matrix product sums over
  constexpr int kAcross = Tile::kCols / kWarpCols;               // warps beside each other
  static_assert(kAcross * (Tile::kRows / (16 * kRowTiles)) * 32 == kGatherThreads);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int warp_row = warp / kAcross * 16 * kRowTiles, warp_col = warp % kAcross * kWarpCols;

  const GatherBlock block = gather_block<Tile>(p, parts);
  Gather<Tile> gather(p, layout, block);
  float sums[kRowTiles][kWarpCols / 8][4] = {};
  gather.walk([](const uint4& vector) { return rounded<Storage>(vector); },
              [&](const Storage* coarse, const Storage* fine) {
#pragma unroll
                for (int pixel = 0; pixel < Tile::kPixels; pixel += kStep)
                  multiply_step<Tile, kRowTiles>(coarse + pixel * Tile::kRowPitch + warp_row,
                                                 fine + pixel * Tile::kColPitch + warp_col, sums);
              });
  float* const partial = partials + blockIdx.y * partial_count(p);
  gather.store_bias(partial);
#pragma unroll
  for (int row = 0; row < kRowTiles; ++row)
#pragma unroll
    for (int col = 0; col < kWarpCols / 8; ++col)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        gather.store_sum(partial, warp_row + row * 16 + lane / 4 + i / 2 * 8,
                         warp_col + col * 8 + lane % 4 * 2 + i % 2, sums[row][col][i]);
}

template <class Storage, int kRows, int kCols, int kRowTiles>
int launch_tile(const ConvWeightGradParams& params, const LaunchContext& context) {
  using Tile = GatherTile<Storage, kRows, kCols, 64 / static_cast<int>(sizeof(Storage))>;
  const WeightGradTile tile{kRows, kCols};
  const int parts = weight_grad_tile_parts(params, tile, context.limits);
  float* const partials = static_cast<float*>(context.workspace);
  const dim3 grid(static_cast<unsigned>(weight_grad_tile_blocks(params, tile)), static_cast<unsigned>(parts));
  const int code = launch(weight_grad_gemm_kernel<Tile, kRowTiles>, grid, dim3(kGatherThreads),
                          Gather<Tile>::shared_bytes(), context.stream, params, weight_grad_layout(params),
                          partials, parts);
  return code != 0 ? code : sum_weight_parts<Storage, float>(params, partials, parts, context.stream);
}

}  // namespace

int weight_grad_gemm_launch(const ConvWeightGradParams& params, const LaunchContext& context) {
  constexpr WeightGradTile kTile = kWeightGradGemmTile, kThin = kWeightGradGemmThinTile;
  const bool thin = weight_grad_gemm_tile(params).rows == kThin.rows;
  return with_vector_storage(params.coarse.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    return thin ? launch_tile<Storage, kThin.rows, kThin.cols, 1>(params, context)
                : launch_tile<Storage, kTile.rows, kTile.cols, 2>(params, context);
  });
}

}  // namespace denoise_ext::cuda
