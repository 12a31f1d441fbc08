// Depthwise convolution with channels innermost: memory-bound, one pass. A block copies its input tile
// into shared memory 16 bytes at a time; a lane then slides a row of the kernel over 4 output columns of
// one vector of channels, reading each input vector once per row.
#include "common.cuh"
#include "conv_depthwise.h"
#include "conv_variants.h"
#include "primitives.cuh"
#include "vectors.cuh"

namespace denoise_ext::cuda {
namespace {

constexpr int kPixels = DepthwiseRows::kPixels;
constexpr int kMostThreads = 8 * 32;  // DepthwiseRows::rows warps

struct Position {
  int64_t n, channel, y0, x0;  // of the block's first output
};

__device__ __forceinline__ Position block_position(const DepthwiseRows& t, int lanes) {
  int64_t i = blockIdx.x;  // channel blocks innermost: together they read whole pixels
  Position at;
  at.channel = i % t.channel_blocks * t.vectors * lanes;
  i /= t.channel_blocks;
  at.x0 = i % t.tiles_x * t.cols;
  i /= t.tiles_x;
  at.y0 = i % t.tiles_y * t.rows;
  at.n = i / t.tiles_y;
  return at;
}

// Starts the copies of the input under the block's outputs; zeros outside the image. A warp takes whole
// rows. tile: [in_rows][slots][vectors]
template <class Storage>
__device__ __forceinline__ void load_tile(const ConvParams& p, const DepthwiseRows& t, const Position& at,
                                          int stride, uint4* tile) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int vector = lane & (t.vectors - 1), step = 32 >> t.vectors_log2;
  const int64_t channel = at.channel + vector * kVectorLanes<Storage>;
  const bool channel_inside = channel < p.input.size[1];
  const int64_t x_first = at.x0 * stride - p.padding[1];
  for (int r = warp; r < t.in_rows; r += t.rows) {
    const int64_t y = at.y0 * stride - p.padding[0] + r;
    const bool row_inside = channel_inside && y >= 0 && y < p.input.size[2];
    for (int px = lane >> t.vectors_log2; px < t.in_cols; px += step) {
      const int64_t x = x_first + px;
      const int slot = px + px / (kPixels * stride);
      const bool inside = row_inside && x >= 0 && x < p.input.size[3];
      cp_async16(tile + (r * t.slots + slot) * t.vectors + vector,
                 inside ? element<Storage>(p.input, at.n, channel, y, x) : p.input.data, inside);
    }
  }
  cp_async_commit();
}

// weights: [kh * kw][lanes / 4][vectors][4] floats, so that the lanes of a warp read neighbouring 16 bytes.
template <class Storage>
__device__ __forceinline__ void load_weights(const ConvParams& p, const DepthwiseRows& t, int64_t first,
                                             float* weights) {
  constexpr int kLanes = kVectorLanes<Storage>;
  const int channels = t.vectors * kLanes, kw = static_cast<int>(p.weight.size[3]);
  const int count = channels * static_cast<int>(p.weight.size[2]) * kw;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
    const int tap = i / channels, in_tap = i % channels;
    const int part = in_tap / (t.vectors * 4), vector = in_tap / 4 % t.vectors;
    const int64_t channel = first + vector * kLanes + part * 4 + in_tap % 4;
    weights[i] = channel < p.weight.size[0]
                     ? to_acc<float>(*element<Storage>(p.weight, channel, 0, tap / kw, tap % kw))
                     : 0.0f;
  }
}

template <int kLanes>
__device__ __forceinline__ void read_weights(const float* weights, int vectors, float (&w)[kLanes]) {
#pragma unroll
  for (int part = 0; part < kLanes / 4; ++part) {
    const float4 four = *reinterpret_cast<const float4*>(weights + part * vectors * 4);
    w[4 * part] = four.x;
    w[4 * part + 1] = four.y;
    w[4 * part + 2] = four.z;
    w[4 * part + 3] = four.w;
  }
}

template <int kLanes>
__device__ __forceinline__ void multiply_add(const float (&w)[kLanes], const float (&x)[kLanes],
                                             float (&sum)[kLanes]) {
#pragma unroll
  for (int i = 0; i < kLanes; ++i) sum[i] += w[i] * x[i];
}

// One kernel row, its width known and stride 1: every input vector is read once and used for up to kKw
// columns. row: this lane's first input vector.
template <class Storage, int kKw>
__device__ __forceinline__ void slide_row(const DepthwiseRows& t, const uint4* row, const float* weights,
                                          float (&sums)[kPixels][kVectorLanes<Storage>]) {
  constexpr int kLanes = kVectorLanes<Storage>;
  float w[kKw][kLanes];
#pragma unroll
  for (int v = 0; v < kKw; ++v) read_weights(weights + v * t.vectors * kLanes, t.vectors, w[v]);
#pragma unroll
  for (int j = 0; j < kPixels - 1 + kKw; ++j) {
    float x[kLanes];
    unpack<Storage>(row[(j + j / kPixels) * t.vectors], x);
#pragma unroll
    for (int i = 0; i < kPixels; ++i)
      if (j - i >= 0 && j - i < kKw) multiply_add(w[j - i], x, sums[i]);
  }
}

// One kernel row of any width and stride.
template <class Storage>
__device__ __forceinline__ void any_row(const DepthwiseRows& t, int kw, int stride, const uint4* row,
                                        const float* weights, float (&sums)[kPixels][kVectorLanes<Storage>]) {
  constexpr int kLanes = kVectorLanes<Storage>;
  for (int v = 0; v < kw; ++v) {
    float w[kLanes];
    read_weights(weights + v * t.vectors * kLanes, t.vectors, w);
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      const int j = i * stride + v;
      float x[kLanes];
      unpack<Storage>(row[(j + j / (kPixels * stride)) * t.vectors], x);
      multiply_add(w, x, sums[i]);
    }
  }
}

// kKw: the kernel's width at stride 1, or 0 for any width and stride.
// Registers (16-bit, kKw = 7): 4 x 8 sums, 7 x 8 weights, 8 inputs, about 25 for addresses: under 128, so
// two blocks of 256 threads share a multiprocessor.
template <class Storage, int kKw>
__global__ void __launch_bounds__(kMostThreads, 2) conv_depthwise_rows_kernel(ConvParams p, DepthwiseRows t) {
  constexpr int kLanes = kVectorLanes<Storage>;
  const int kh = static_cast<int>(p.weight.size[2]), kw = kKw > 0 ? kKw : static_cast<int>(p.weight.size[3]);
  const int stride = kKw > 0 ? 1 : static_cast<int>(p.stride[0]);
  const int channels = t.vectors * kLanes;
  SharedArena arena;
  uint4* const tile = arena.take<uint4>(static_cast<size_t>(t.in_rows * t.slots * t.vectors));
  float* const weights = arena.take<float>(static_cast<size_t>(kh * kw * channels));
  float* const bias = arena.take<float>(static_cast<size_t>(channels));
  float* const slope = arena.take<float>(static_cast<size_t>(channels));

  const Position at = block_position(t, kLanes);
  load_tile<Storage>(p, t, at, stride, tile);
  load_weights<Storage>(p, t, at.channel, weights);
  load_channel_terms<Storage>(p, at.channel, channels, bias, slope);
  cp_async_wait<0>();
  __syncthreads();

  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int vector = lane & (t.vectors - 1), group = lane >> t.vectors_log2;
  float sums[kPixels][kLanes];
#pragma unroll
  for (int i = 0; i < kPixels; ++i)
#pragma unroll
    for (int l = 0; l < kLanes; ++l) sums[i][l] = bias[vector * kLanes + l];
  const uint4* row = tile + (warp * stride * t.slots + group * (kPixels * stride + 1)) * t.vectors + vector;
  const float* row_weights = weights + vector * 4;
  for (int u = 0; u < kh; ++u) {
    if constexpr (kKw > 0) {
      slide_row<Storage, kKw>(t, row, row_weights, sums);
    } else {
      any_row<Storage>(t, kw, stride, row, row_weights, sums);
    }
    row += t.slots * t.vectors;
    row_weights += kw * channels;
  }
  const int64_t y = at.y0 + warp, x = at.x0 + group * kPixels;
  finish_vectors<Storage>(p, true, slope + vector * kLanes, sums, at.n, at.channel + vector * kLanes, y,
                          [&](int i) { return x + i; });
}

}  // namespace

int conv_depthwise_rows_launch(const ConvParams& p, const LaunchContext& context) {
  const DepthwiseRows t = depthwise_rows(p);
  const dim3 grid(static_cast<unsigned>(p.output.size[0] * t.tiles_x * t.tiles_y * t.channel_blocks));
  const dim3 block(static_cast<unsigned>(32 * t.rows));
  return with_vector_storage(p.output.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    const auto start = [&](auto kernel) {
      return launch(kernel, grid, block, t.shared_bytes, context.stream, p, t);
    };
    const int64_t kw = p.stride[0] == 1 ? p.weight.size[3] : 0;
    if (kw == 3) return start(conv_depthwise_rows_kernel<Storage, 3>);
    if (kw == 5) return start(conv_depthwise_rows_kernel<Storage, 5>);
    if (kw == 7) return start(conv_depthwise_rows_kernel<Storage, 7>);
    return start(conv_depthwise_rows_kernel<Storage, 0>);
  });
}

}  // namespace denoise_ext::cuda
