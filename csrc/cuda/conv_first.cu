// Convolution of 1 to 4 input channels to many, stride 1: bound by writing the output, which happens
// once, 16 bytes at a time. The weights and a tile of the input lie in shared memory.
#include "common.cuh"
#include "conv_conditions.h"
#include "conv_first.h"
#include "conv_variants.h"
#include "primitives.cuh"
#include "vectors.cuh"

namespace denoise_ext::cuda {
namespace {

// ---- 16-bit elements: tensor cores ----

constexpr int kRows = ConvFirstTensor::kRows, kCols = ConvFirstTensor::kCols;
constexpr int kTensorThreads = ConvFirstTensor::kThreads;

// Where the pair `pair` of products reads its two input channels, in words relative to the word of the
// output's own position in the tile; -1: nowhere, the pair is padding.
__device__ __forceinline__ int pair_offset(const ConvParams& p, const ConvFirstTensor& t, int pair) {
  const int kw = static_cast<int>(p.weight.size[3]);
  const int tap = pair / t.channel_pairs;
  if (tap >= static_cast<int>(p.weight.size[2]) * kw) return -1;
  return (tap / kw * t.in_cols + tap % kw) * t.channel_pairs + pair % t.channel_pairs;
}

// The bits of weight (k, c, tap), 0 where there is none.
__device__ __forceinline__ uint32_t weight_bits(const ConvParams& p, int64_t k, int c, int tap) {
  const int kw = static_cast<int>(p.weight.size[3]);
  if (k >= p.weight.size[0] || c >= static_cast<int>(p.weight.size[1]) ||
      tap >= static_cast<int>(p.weight.size[2]) * kw)
    return 0;
  return *element<uint16_t>(p.weight, k, c, tap / kw, tap % kw);
}

// fragments: [channel block][step][matrix 4][lane 32], the two registers of b of each lane.
__device__ __forceinline__ void load_fragments(const ConvParams& p, const ConvFirstTensor& t,
                                               uint2* fragments) {
  const int count = t.channel_blocks * t.steps * 4 * 32;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kTensorThreads) {
    const int lane = i % 32, matrix = i / 32 % 4, step = i / 128 % t.steps, block = i / 128 / t.steps;
    const int64_t k = block * 32 + column_channel(matrix, lane / 4);
    uint32_t words[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int pair = step * 8 + half * 4 + lane % 4;
      const int tap = pair / t.channel_pairs, c = pair % t.channel_pairs * 2;
      words[half] = weight_bits(p, k, c, tap) | weight_bits(p, k, c + 1, tap) << 16;
    }
    fragments[i] = uint2{words[0], words[1]};
  }
}

// tile: [in_rows][in_cols][channel_pairs] words; zero outside the image and for channels that are not.
__device__ __forceinline__ void load_words(const ConvParams& p, const ConvFirstTensor& t, int64_t n,
                                           int64_t y0, int64_t x0, uint32_t* tile) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  for (int r = warp; r < t.in_rows; r += kTensorThreads / 32) {
    const int64_t y = y0 - p.padding[0] + r;
    for (int col = lane; col < t.in_cols; col += 32) {
      const int64_t x = x0 - p.padding[1] + col;
      const bool inside = y >= 0 && y < p.input.size[2] && x >= 0 && x < p.input.size[3];
      uint32_t bits[kConvFirstMaxChannels];
#pragma unroll
      for (int c = 0; c < kConvFirstMaxChannels; ++c)
        bits[c] = inside && c < p.input.size[1] ? *element<uint16_t>(p.input, n, c, y, x) : 0;
      uint32_t* const to = tile + (r * t.in_cols + col) * t.channel_pairs;
      to[0] = bits[0] | bits[1] << 16;
      if (t.channel_pairs == 2) to[1] = bits[2] | bits[3] << 16;
    }
  }
}

struct TensorShared {
  const uint32_t* tile;
  const uint2* fragments;
  const int* offsets;  // [steps][8]: pair_offset of every pair
  const float* bias;   // [channel_blocks * 32]
  const float* slope;
};

// 32 output pixels in a row by 32 channels. position: of the first pixel in the tile, in words.
template <class Storage>
__device__ __forceinline__ void tensor_piece(const ConvFirstTensor& t, const TensorShared& shared, int block,
                                             int position, float (&sums)[2][4][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, quad = lane % 4;
#pragma unroll
  for (int matrix = 0; matrix < 4; ++matrix)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      sums[0][matrix][i] = sums[1][matrix][i] = shared.bias[block * 32 + quad * 8 + matrix * 2 + i % 2];
  const uint32_t* const pixel = shared.tile + position + g * t.channel_pairs;
  const uint2* fragments = shared.fragments + block * t.steps * 4 * 32 + lane;
  for (int step = 0; step < t.steps; ++step, fragments += 4 * 32) {
    const int low = shared.offsets[step * 8 + quad], high = shared.offsets[step * 8 + 4 + quad];
    uint32_t a[2][4];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const uint32_t* const first = pixel + m * 16 * t.channel_pairs;
      const uint32_t* const second = first + 8 * t.channel_pairs;
      a[m][0] = low >= 0 ? first[low] : 0;
      a[m][1] = low >= 0 ? second[low] : 0;
      a[m][2] = high >= 0 ? first[high] : 0;
      a[m][3] = high >= 0 ? second[high] : 0;
    }
#pragma unroll
    for (int matrix = 0; matrix < 4; ++matrix) {
      const uint2 two = fragments[matrix * 32];
      const uint32_t b[2] = {two.x, two.y};
      mma_16_bit(sums[0][matrix], a[0], b, Storage{});
      mma_16_bit(sums[1][matrix], a[1], b, Storage{});
    }
  }
}

// Persistent: the weights are brought into shared memory once per block.
// Registers: 32 sums, 8 + 2 operands, about 50 for addresses and the epilogue: two blocks fit.
template <class Storage>
__global__ void __launch_bounds__(kTensorThreads, 2)
    conv_first_tensor_kernel(ConvParams p, ConvFirstTensor t, bool wide) {
  SharedArena arena;
  const auto channels = static_cast<size_t>(t.channel_blocks) * 32;
  uint2* const fragments = arena.take<uint2>(channels * static_cast<size_t>(t.steps) * 4);
  float* const bias = arena.take<float>(channels);
  float* const slope = arena.take<float>(channels);
  uint32_t* const tile = arena.take<uint32_t>(static_cast<size_t>(t.in_rows * t.in_cols * t.channel_pairs));
  int* const offsets = arena.take<int>(static_cast<size_t>(t.steps) * 8);
  const TensorShared shared{tile, fragments, offsets, bias, slope};
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;

  load_fragments(p, t, fragments);
  load_channel_terms<Storage>(p, 0, t.channel_blocks * 32, bias, slope);
  for (int i = static_cast<int>(threadIdx.x); i < t.steps * 8; i += kTensorThreads)
    offsets[i] = pair_offset(p, t, i);
  for (int64_t index = blockIdx.x; index < t.tiles; index += gridDim.x) {
    const int64_t x0 = index % t.tiles_x * kCols, y0 = index / t.tiles_x % t.tiles_y * kRows;
    const int64_t n = index / t.tiles_x / t.tiles_y;
    load_words(p, t, n, y0, x0, tile);
    __syncthreads();
    // Items of one row and 32 channels; neighbouring warps write neighbouring channels.
    for (int item = warp; item < kRows * t.channel_blocks; item += kTensorThreads / 32) {
      const int block = item % t.channel_blocks, row = item / t.channel_blocks;
      if (y0 + row >= p.output.size[2]) break;
      for (int col = 0; col < kCols && x0 + col < p.output.size[3]; col += 32) {
        float sums[2][4][4];
        tensor_piece<Storage>(t, shared, block, (row * t.in_cols + col) * t.channel_pairs, sums);
        const int first = block * 32 + lane % 4 * 8;
        float v[4][8];  // of pixels g, g + 8, g + 16, g + 24
#pragma unroll
        for (int part = 0; part < 4; ++part)
#pragma unroll
          for (int i = 0; i < 8; ++i) v[part][i] = sums[part / 2][i / 2][part % 2 * 2 + i % 2];
        finish_vectors<Storage>(p, wide, slope + first, v, n, first, y0 + row,
                                [&](int part) { return x0 + col + part * 8 + lane / 4; });
      }
    }
    __syncthreads();
  }
}

// ---- float32: multiply-adds ----

constexpr int kPixels = ConvFirstFloat::kPixels, kFloatThreads = ConvFirstFloat::kThreads;

// tile: [C][in_rows][in_pitch], zero outside the image; weights: [C][kh][kw][channels].
__device__ __forceinline__ void load_floats(const ConvParams& p, const ConvFirstFloat& t, int64_t n,
                                            int64_t y0, int64_t x0, int64_t first, float* tile,
                                            float* weights) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int inputs = static_cast<int>(p.input.size[1]);
  for (int i = warp; i < inputs * t.in_rows; i += kFloatThreads / 32) {
    const int64_t y = y0 - p.padding[0] + i % t.in_rows;
    for (int col = lane; col < t.in_pitch; col += 32) {
      const int64_t x = x0 - p.padding[1] + col;
      const bool inside = y >= 0 && y < p.input.size[2] && x >= 0 && x < p.input.size[3];
      tile[i * t.in_pitch + col] = inside ? *element<float>(p.input, n, i / t.in_rows, y, x) : 0.0f;
    }
  }
  const int kh = static_cast<int>(p.weight.size[2]), kw = static_cast<int>(p.weight.size[3]);
  const int channels = t.vectors * 4;
  for (int i = static_cast<int>(threadIdx.x); i < inputs * kh * kw * channels; i += kFloatThreads) {
    const int tap = i / channels, k = i % channels;
    weights[i] = first + k < p.weight.size[0]
                     ? *element<float>(p.weight, first + k, tap / (kh * kw), tap / kw % kh, tap % kw)
                     : 0.0f;
  }
}

// One row of the kernel over kPixels columns by 4 channels. row: 16-byte aligned.
template <int kKw>
__device__ __forceinline__ void multiply_row(const float* row, const float* weights, int channels,
                                             float (&sums)[kPixels][4]) {
  constexpr int kInputs = (kPixels + kKw - 1 + 3) / 4 * 4;
  float x[kInputs];
#pragma unroll
  for (int i = 0; i < kInputs / 4; ++i) {
    const float4 four = *reinterpret_cast<const float4*>(row + 4 * i);
    x[4 * i] = four.x;
    x[4 * i + 1] = four.y;
    x[4 * i + 2] = four.z;
    x[4 * i + 3] = four.w;
  }
#pragma unroll
  for (int v = 0; v < kKw; ++v) {
    const float4 w = *reinterpret_cast<const float4*>(weights + v * channels);
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      sums[i][0] += w.x * x[i + v];
      sums[i][1] += w.y * x[i + v];
      sums[i][2] += w.z * x[i + v];
      sums[i][3] += w.w * x[i + v];
    }
  }
}

// Registers: 8 x 4 sums, 12 inputs, 4 weights, about 30 more.
template <int kKw>
__global__ void __launch_bounds__(kFloatThreads, 2)
    conv_first_float_kernel(ConvParams p, ConvFirstFloat t, bool wide) {
  const int inputs = static_cast<int>(p.input.size[1]), kh = static_cast<int>(p.weight.size[2]);
  const int channels = t.vectors * 4;
  SharedArena arena;
  float* const tile = arena.take<float>(static_cast<size_t>(inputs * t.in_rows * t.in_pitch));
  float* const weights = arena.take<float>(static_cast<size_t>(inputs * kh * kKw * channels));
  float* const bias = arena.take<float>(static_cast<size_t>(channels));
  float* const slope = arena.take<float>(static_cast<size_t>(channels));
  int64_t index = blockIdx.x;
  const int64_t first = index % t.channel_blocks * channels;
  index /= t.channel_blocks;
  const int64_t x0 = index % t.tiles_x * ConvFirstFloat::kCols;
  const int64_t y0 = index / t.tiles_x % t.tiles_y * ConvFirstFloat::kRows;
  const int64_t n = index / t.tiles_x / t.tiles_y;
  load_floats(p, t, n, y0, x0, first, tile, weights);
  load_channel_terms<float>(p, first, channels, bias, slope);
  __syncthreads();

  constexpr int kGroups = ConvFirstFloat::kCols / kPixels;
  const int vector = static_cast<int>(threadIdx.x) % t.vectors;
  const int threads_per_vector = kFloatThreads / t.vectors;
  for (int group = static_cast<int>(threadIdx.x) / t.vectors; group < kGroups * ConvFirstFloat::kRows;
       group += threads_per_vector) {
    const int row = group / kGroups, col = group % kGroups * kPixels;
    if (y0 + row >= p.output.size[2]) break;
    float sums[kPixels][4];
#pragma unroll
    for (int i = 0; i < kPixels; ++i)
#pragma unroll
      for (int c = 0; c < 4; ++c) sums[i][c] = bias[vector * 4 + c];
    const float* row_weights = weights + vector * 4;
    for (int c = 0; c < inputs; ++c)
      for (int u = 0; u < kh; ++u, row_weights += kKw * channels)
        multiply_row<kKw>(tile + (c * t.in_rows + row + u) * t.in_pitch + col, row_weights, channels, sums);
    finish_vectors<float>(p, wide, slope + vector * 4, sums, n, first + vector * 4, y0 + row,
                          [&](int i) { return x0 + col + i; });
  }
}

int launch_float(const ConvParams& p, const LaunchContext& context, bool wide) {
  const ConvFirstFloat t = conv_first_float(p);
  const dim3 grid(static_cast<unsigned>(p.output.size[0] * t.tiles_x * t.tiles_y * t.channel_blocks));
  const auto kernel = p.weight.size[3] == 3 ? conv_first_float_kernel<3> : conv_first_float_kernel<5>;
  return launch(kernel, grid, dim3(kFloatThreads), t.shared_bytes, context.stream, p, t, wide);
}

}  // namespace

int conv_first_launch(const ConvParams& p, const LaunchContext& context) {
  const bool wide = wide_output(p);
  if (p.output.dtype == DType::kFloat32) return launch_float(p, context, wide);
  const ConvFirstTensor t = conv_first_tensor(p);
  const int64_t most = 2 * static_cast<int64_t>(context.limits.multiprocessors);
  const dim3 grid(static_cast<unsigned>(t.tiles < most ? t.tiles : most));
  const auto kernel = p.output.dtype == DType::kFloat16 ? conv_first_tensor_kernel<Float16>
                                                        : conv_first_tensor_kernel<BFloat16>;
  return launch(kernel, grid, dim3(kTensorThreads), t.shared_bytes, context.stream, p, t, wide);
}

}  // namespace denoise_ext::cuda
