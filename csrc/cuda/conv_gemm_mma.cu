// Convolution as a product of matrices on the tensor cores, for what the row ring does not take: strides,
// rectangular and large kernels, any groups and dilation. float16, bfloat16 and, with reduced precision of
// the factors (tf32), float32; sums in float.
//
// A warp has 64 pixels x 32 channels: 6 ldmatrix for 16 matrix products.
#include "conv_gemm_kernel.cuh"
#include "conv_packed.h"
#include "conv_variants.h"

namespace denoise_ext::cuda {
namespace {

template <class StorageType>
struct TensorProducts {
  using Storage = StorageType;
  static constexpr ConvGemmTile kTile = sizeof(Storage) == 2 ? kGemmTensor16 : kGemmTensor32;
  static constexpr bool kCopies = true, kRounds = sizeof(Storage) == 4;
  // Blocks per multiprocessor that the registers must allow. 32 elements of 16 bits on their way from memory
  // are as many registers, until they are put together: with three blocks some would spill.
  static constexpr int kBlocks = sizeof(Storage) == 2 ? 2 : 3;
  static constexpr int kWarpPixels = 64, kWarpOutputs = 32;
  static constexpr int kPairs = kWarpPixels / 16;

  // Matrix products m of 16 pixels and j of 8 channels: [m][j][as in primitives.cuh]. Of the thread's pixel
  // 2 i + h and its channel 2 j + k: [i][j][2 h + k].
  using Sums = float[kPairs][4][4];

  static __device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x) % 32; }
  static __device__ __forceinline__ int warp_pixel() {
    return static_cast<int>(threadIdx.x) / 64 * kWarpPixels;
  }
  static __device__ __forceinline__ int warp_output() {
    return static_cast<int>(threadIdx.x) / 32 % 2 * kWarpOutputs;
  }

  static __device__ __forceinline__ uint32_t factor_bits(Storage x) {
    if constexpr (sizeof(Storage) == 4) return to_tf32(x);
    return *reinterpret_cast<const ElementBits<Storage>*>(&x);
  }
  // In the order in which a lane's columns are 8 neighbouring channels.
  static __device__ __forceinline__ int row_channel(int i) {
    return i / kWarpOutputs * kWarpOutputs + column_channel(i % kWarpOutputs / 8, i % 8);
  }
  static __device__ __forceinline__ int first_channel() { return warp_output() + lane() % 4 * 8; }
  static __device__ __forceinline__ int pixel_row(int i) { return warp_pixel() + i * 8 + lane() / 4; }

  static __device__ __forceinline__ void multiply(Sums& sums, const unsigned char* pixels,
                                                  const unsigned char* weights, int outputs) {
    if (warp_output() >= outputs) return;
    // The rows of the four matrices that this lane addresses: of pixels 0..15 the first vector, then the
    // second; both vectors of channels 0..7, then of 8..15. 16 rows further on the vectors lie alike.
    const int pixel = warp_pixel() + lane() % 16, output = warp_output() + lane() % 8 + lane() / 16 * 8;
#pragma unroll
    for (int step = 0; step < kGemmVectors / 2; ++step) {
      const unsigned char* const a_row = pixels + gemm_offset(pixel, 2 * step + lane() / 16);
      const unsigned char* const b_row = weights + gemm_offset(output, 2 * step + lane() / 8 % 2);
      uint32_t a[kPairs][4];
#pragma unroll
      for (int m = 0; m < kPairs; ++m) ldmatrix(a[m], a_row + m * 16 * kGemmRowBytes);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint32_t b[4];
        ldmatrix(b, b_row + half * 16 * kGemmRowBytes);
        const uint32_t low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
#pragma unroll
        for (int m = 0; m < kPairs; ++m) {
          denoise_ext::cuda::multiply(sums[m][2 * half], a[m], low, Storage{});
          denoise_ext::cuda::multiply(sums[m][2 * half + 1], a[m], high, Storage{});
        }
      }
    }
  }
};

}  // namespace

int conv_gemm_mma_launch(const ConvParams& params, const LaunchContext& context) {
  return conv_gemm_mma_launch_packed(params, context, nullptr);
}

int conv_gemm_mma_launch_packed(const ConvParams& params, const LaunchContext& context, const void* packed) {
  return with_vector_storage(params.input.dtype, [&](auto storage) {
    return launch_gemm<TensorProducts<decltype(storage)>>(params, context, packed);
  });
}

int conv_gemm_mma_pack(const ConvParams& params, const LaunchContext& context, void* packed) {
  return with_vector_storage(params.input.dtype, [&](auto storage) {
    return pack_gemm<TensorProducts<decltype(storage)>>(params, context, packed);
  });
}

}  // namespace denoise_ext::cuda
