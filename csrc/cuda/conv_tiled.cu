// Convolution as a product of matrices with ordinary multiply-adds: any kernel up to 11 x 11, stride,
// dilation, groups, padding and layout, conv2d and conv_transpose2d. Sums and factors in float: float32 is
// never rounded, and 16-bit elements are not either.
//
// A thread has 8 channels of 8 pixels (of 2 in the narrow tile). For 4 terms it reads 16 bytes of each pixel
// and of each channel, 16 reads for 256 multiply-adds.
#include "conv_gemm_kernel.cuh"
#include "conv_packed.h"
#include "conv_variants.h"

namespace denoise_ext::cuda {
namespace {

template <class StorageType, bool kNarrow>
struct FloatProducts {
  using Storage = StorageType;
  static constexpr ConvGemmTile kTile = kNarrow ? kTiledNarrow : kTiledWide;
  static constexpr bool kCopies = sizeof(Storage) == 4, kRounds = false;
  // Blocks per multiprocessor that the registers must allow: 65536 / (3 x 128 threads) = 170 each.
  static constexpr int kBlocks = 3;
  static constexpr int kAcross = kTile.outputs / 8;  // threads side by side along the channels
  static constexpr int kDown = kTile.threads / kAcross;
  static constexpr int kPixels = kTile.pixels / kDown;  // of a thread
  static constexpr int kPairs = kPixels / 2;

  // Of pixel 2 i + h and channel 2 j + k: [i][j][2 h + k].
  using Sums = float[kPairs][4][4];

  static __device__ __forceinline__ int across() { return static_cast<int>(threadIdx.x) % kAcross; }
  static __device__ __forceinline__ int down() { return static_cast<int>(threadIdx.x) / kAcross; }

  static __device__ __forceinline__ uint32_t factor_bits(Storage x) {
    return __float_as_uint(to_acc<float>(x));
  }
  // Which channel of the tile is row i of the weights, so that a thread's rows across + kAcross j are
  // neighbouring channels.
  static __device__ __forceinline__ int row_channel(int i) { return i % kAcross * 8 + i / kAcross; }
  static __device__ __forceinline__ int first_channel() { return across() * 8; }
  static __device__ __forceinline__ int pixel_row(int i) { return down() + kDown * i; }

  // Where vector v of row first + step * i lies: gemm_offset(), with what depends on the thread in one term.
  static __device__ __forceinline__ int row_offset(int first, int step, int i, int v) {
    return step % 8 == 0 ? gemm_offset(first, v) + step * i * kGemmRowBytes
                         : gemm_offset(first + step * i, v);
  }

  static __device__ __forceinline__ void multiply(Sums& sums, const unsigned char* pixels,
                                                  const unsigned char* weights, int /*outputs*/) {
    // Unrolled, the next turn's reads come early and registers spill.
#pragma unroll 1
    for (int v = 0; v < kGemmVectors; ++v) {
      float4 w[8];
#pragma unroll
      for (int j = 0; j < 8; ++j)
        w[j] = *reinterpret_cast<const float4*>(weights + row_offset(across(), kAcross, j, v));
#pragma unroll
      for (int i = 0; i < kPixels; ++i) {
        const float4 x = *reinterpret_cast<const float4*>(pixels + row_offset(down(), kDown, i, v));
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          float& sum = sums[i / 2][j / 2][i % 2 * 2 + j % 2];
          sum += x.x * w[j].x;
          sum += x.y * w[j].y;
          sum += x.z * w[j].z;
          sum += x.w * w[j].w;
        }
      }
    }
  }
};

bool is_narrow(const ConvParams& params) {
  return conv_tiled_tile(params).outputs == kTiledNarrow.outputs;
}

}  // namespace

int conv_tiled_launch(const ConvParams& params, const LaunchContext& context) {
  return conv_tiled_launch_packed(params, context, nullptr);
}

int conv_tiled_launch_packed(const ConvParams& params, const LaunchContext& context, const void* packed) {
  return with_vector_storage(params.input.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    return is_narrow(params) ? launch_gemm<FloatProducts<Storage, true>>(params, context, packed)
                             : launch_gemm<FloatProducts<Storage, false>>(params, context, packed);
  });
}

int conv_tiled_pack(const ConvParams& params, const LaunchContext& context, void* packed) {
  return with_vector_storage(params.input.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    return is_narrow(params) ? pack_gemm<FloatProducts<Storage, true>>(params, context, packed)
                             : pack_gemm<FloatProducts<Storage, false>>(params, context, packed);
  });
}

}  // namespace denoise_ext::cuda
