// Device code of the row-ring convolution: where a block is in its work, the weights in shared memory, and
// the matrix products. See conv_rowring.cu.
#pragma once

#include "common.cuh"
#include "conv_rowring_plan.h"
#include "factors.cuh"
#include "primitives.cuh"

namespace denoise_ext::cuda {

// row_ring_tile() as constants.
// kSplitFactors: float32 factors are sums of two tf32 numbers.
template <int kElementBytes, int kKernelSize, bool kLarge, bool kSplitFactors>
struct RowRing {
  static constexpr bool kSplit = kSplitFactors;
  static constexpr int kKernel = kKernelSize;
  static constexpr int kWidth = row_ring_tile(kElementBytes, kKernel, kLarge).width;
  static constexpr int kRows = row_ring_tile(kElementBytes, kKernel, kLarge).rows;
  static constexpr int kThreads = row_ring_tile(kElementBytes, kKernel, kLarge).threads;
  static constexpr int kWindow = row_ring_tile(kElementBytes, kKernel, kLarge).window;
  static constexpr int kPixels = row_ring_tile(kElementBytes, kKernel, kLarge).pixels;
  static constexpr int kRowBytes = row_ring_tile(kElementBytes, kKernel, kLarge).row_bytes;
  static constexpr int kColumnBytes = row_ring_tile(kElementBytes, kKernel, kLarge).column_bytes;
  static constexpr int kChunk = row_ring_tile(kElementBytes, kKernel, kLarge).chunk;
  static constexpr int kPixelBytes = kChunk * kElementBytes;  // also of a row of weights
  static constexpr int kVectors = kPixelBytes / 16;
  static constexpr int kProductChannels = 32 / kElementBytes;  // that one matrix product sums over
  static constexpr int kWarpsAlong = kWidth / 16;
  // Blocks per multiprocessor that the registers must allow: 65536 / (3 x 128 threads) = 170 each (float:
  // 256).
  static constexpr int kBlocks = kLarge ? 1 : row_ring_small_blocks(kElementBytes);

  // Where vector v of pixel (or output channel) i lies in its row of kChunk elements, in bytes. Any 8
  // consecutive i at the same v, which is what ldmatrix reads at once, are in 8 different 16-byte bank
  // groups: i covers 128 / kPixelBytes rows per 128 bytes, and the exclusive or permutes the rest.
  static __host__ __device__ constexpr int offset(int i, int v) {
    return i * kPixelBytes + ((v ^ (i * kVectors / 8 % kVectors)) * 16);
  }
};

// One pass over a window: the rows and pixels of a group, and `planes` chunks of the input channels.
struct RowRingStep {
  int64_t group;     // number of the group
  int output_block;  // of kRowRingOutputs channels
  int image, x, y;   // the group's first output pixel
  int chunk;         // the pass's first chunk
  int slot;          // ring row of the window's first row
  bool fresh;        // the ring holds none of the window's rows from the step before
};

template <class Ring>
__device__ __forceinline__ RowRingStep first_step(const ConvParams& p, int64_t group) {
  const int64_t down = (p.output.size[2] + Ring::kRows - 1) / Ring::kRows;
  const int64_t along = (p.output.size[3] + Ring::kWidth - 1) / Ring::kWidth;
  RowRingStep step{};
  step.group = group;
  step.y = static_cast<int>(group % down) * Ring::kRows;
  step.x = static_cast<int>(group / down % along) * Ring::kWidth;
  step.image = static_cast<int>(group / (down * along) % p.output.size[0]);
  step.output_block = static_cast<int>(group / (down * along * p.output.size[0]));
  step.fresh = true;
  return step;
}

// Groups go down a strip, then along the image, through the batch, and last over the output channels.
template <class Ring>
__device__ __forceinline__ RowRingStep next_step(const ConvParams& p, const RowRingPlan& plan,
                                                 RowRingStep step) {
  const int slot = step.slot;
  step.fresh = true;
  step.chunk += plan.planes;
  if (step.chunk >= plan.chunks) {
    step.chunk = 0;
    ++step.group;
    step.y += Ring::kRows;
    step.fresh = plan.planes < plan.chunks;
    if (step.y >= p.output.size[2]) {
      step.fresh = true;
      step.y = 0;
      step.x += Ring::kWidth;
      if (step.x >= p.output.size[3]) {
        step.x = 0;
        if (++step.image >= p.output.size[0]) {
          step.image = 0;
          ++step.output_block;
        }
      }
    }
  }
  step.slot = slot + (step.fresh ? Ring::kWindow : Ring::kRows);
  if (step.slot >= plan.ring_rows) step.slot -= plan.ring_rows;
  return step;
}

// Rows of the step's window that are still to be loaded: the last ones.
template <class Ring>
__device__ __forceinline__ int new_rows(const RowRingStep& step) {
  return step.fresh ? Ring::kWindow : Ring::kRows;
}

// Row i of the window starts here in every plane of the ring, in bytes.
template <class Ring>
__device__ __forceinline__ int window_row(const RowRingPlan& plan, const RowRingStep& step, int i) {
  const int row = step.slot + i;
  return (row >= plan.ring_rows ? row - plan.ring_rows : row) * Ring::kRowBytes;
}

// Groups of kProductChannels in a chunk; the last chunk's last group is filled up with zeros.
template <class Ring>
__device__ __forceinline__ int chunk_products(const ConvParams& p, int chunk) {
  const int rest = static_cast<int>(p.input.size[1]) - chunk * Ring::kChunk;
  return ((rest < Ring::kChunk ? rest : Ring::kChunk) + Ring::kProductChannels - 1) / Ring::kProductChannels;
}

// Starts the copies of `columns` columns of weights, from number `first` of the packed ones on.
template <class Ring>
__device__ __forceinline__ void load_columns(const uint4* packed, int64_t first, int columns,
                                             unsigned char* weights) {
  constexpr int kColumnVectors = Ring::kColumnBytes / 16;
  const uint4* const from = packed + first * kColumnVectors;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < columns * kColumnVectors; i += Ring::kThreads)
    cp_async16(weights + i * 16, from + i, true);
}

// x = high + low, both in tf32, but for 2^-22 of x. An infinite x gives NaN, for low is.
template <int kCount>
__device__ __forceinline__ void split_factors(uint32_t (&high)[kCount], uint32_t (&low)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const float x = __uint_as_float(high[i]);
    high[i] = to_tf32(x);
    low[i] = to_tf32(x - __uint_as_float(high[i]));
  }
}

// A warp's sums: rows of 16 pixels x 4 tiles of 8 channels.
template <class Ring>
using RowRingSums = float[Ring::kRows][4][4];

// sums += one column of taps over one chunk. `pixels` points to the warp's leftmost pixel for that
// column's taps (its number in a row is `pixel`), `weights` to the column's (tap, 64, kChunk).
// The fragments of an input row serve all the taps above each other that meet it: per kProductChannels
// kWindow + 2 kKernel ldmatrix for 8 kRows kKernel matrix products. To ldmatrix four 32-bit elements are
// eight of 16 bits, and a lane gets both halves of the one element that it gives a tf32 product.
template <class Storage, class Ring>
__device__ __forceinline__ void multiply_column(RowRingSums<Ring>& sums, const unsigned char* plane,
                                                const int (&rows)[Ring::kWindow], int pixel,
                                                const unsigned char* weights, int output, int products) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  // The rows of the four matrices that this lane addresses: a: pixels 0..15 of the first vector of
  // channels, then of the second; b: first and second vector of outputs 0..7, then of 8..15.
  const int a_pixel = pixel + lane % 16, a_vector = lane / 16;
  const int b_output = output + lane % 8 + lane / 16 * 8, b_vector = lane / 8 % 2;
#pragma unroll 1
  for (int k = 0; k < products; ++k) {
    uint32_t a[Ring::kWindow][4];
    const unsigned char* const from = plane + Ring::offset(a_pixel, 2 * k + a_vector);
#pragma unroll
    for (int i = 0; i < Ring::kWindow; ++i) ldmatrix(a[i], from + rows[i]);
    uint32_t a_low[Ring::kSplit ? Ring::kWindow : 1][4];
    if constexpr (Ring::kSplit) {
#pragma unroll
      for (int i = 0; i < Ring::kWindow; ++i) split_factors(a[i], a_low[i]);
    }
#pragma unroll
    for (int tap = 0; tap < Ring::kKernel; ++tap) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint32_t b[4];
        ldmatrix(b, weights + Ring::offset(tap * kRowRingOutputs + b_output + 16 * half, 2 * k + b_vector));
        uint32_t b_low[4];
        if constexpr (Ring::kSplit) split_factors(b, b_low);
#pragma unroll
        for (int r = 0; r < Ring::kRows; ++r) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            float (&sum)[4] = sums[r][2 * half + i];
            // The small products first; that of the two low parts is below 2^-22 of the whole one. Added up
            // by themselves they would take registers that spill.
            if constexpr (Ring::kSplit) {
              multiply(sum, a_low[r + tap], {b[2 * i], b[2 * i + 1]}, Storage{});
              multiply(sum, a[r + tap], {b_low[2 * i], b_low[2 * i + 1]}, Storage{});
            }
            multiply(sum, a[r + tap], {b[2 * i], b[2 * i + 1]}, Storage{});
          }
        }
      }
    }
  }
}

}  // namespace denoise_ext::cuda
