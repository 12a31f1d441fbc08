// Transposed convolution of stride 2 with channels innermost: all four phases of the output in one
// kernel, without a division per output and without multiplying the zeros that stride 2 inserts. A first
// kernel puts the weights in the order in which the second one reads them.
#include "common.cuh"
#include "conv_conditions.h"
#include "conv_transpose_phases.h"
#include "conv_variants.h"
#include "primitives.cuh"
#include "vectors.cuh"

namespace denoise_ext::cuda {
namespace {

using Phases = ConvTransposePhases;
constexpr int kThreads = Phases::kThreads, kRows = Phases::kRows, kCols = Phases::kCols;
constexpr int kOutputs = Phases::kOutputs;
constexpr int kTapVectors = Phases::kTapBytes / 16, kPixelVectors = Phases::kPixelBytes / 16;

// Kernel rows (or columns) of a phase.
__device__ __forceinline__ int phase_taps(int kernel, int phase) {
  return (kernel + 1 - phase) / 2;
}

// Which weight a word of the ordered ones holds: `in_tap` runs over [k-step 2][matrix 4][lane 32][2]
// pairs of 16-bit elements (mma's b; column_channel() maps them to outputs), or [c 16][k 32] floats.
__device__ __forceinline__ uint32_t ordered_word(const ConvParams& p, int64_t first_c, int64_t first_k,
                                                 int in_tap, int u, int v, float) {
  const int64_t c = first_c + in_tap / kOutputs, k = first_k + in_tap % kOutputs;
  if (c >= p.weight.size[0] || k >= p.weight.size[1]) return 0;
  return *element<uint32_t>(p.weight, c, k, u, v);
}
__device__ __forceinline__ uint32_t ordered_word(const ConvParams& p, int64_t first_c, int64_t first_k,
                                                 int in_tap, int u, int v, uint16_t) {
  const int half = in_tap % 2, lane = in_tap / 2 % 32, matrix = in_tap / 64 % 4, step = in_tap / 256;
  const int64_t c = first_c + step * 16 + half * 8 + lane % 4 * 2;
  const int64_t k = first_k + column_channel(matrix, lane / 4);
  if (k >= p.weight.size[1]) return 0;
  const uint32_t low = c < p.weight.size[0] ? *element<uint16_t>(p.weight, c, k, u, v) : 0;
  const uint32_t high = c + 1 < p.weight.size[0] ? *element<uint16_t>(p.weight, c + 1, k, u, v) : 0;
  return low | high << 16;
}

// ordered: [channel block][chunk][kh][kw][kTapBytes]
template <class Bits>
__global__ void __launch_bounds__(kThreads)
    order_weights_kernel(ConvParams p, Phases t, uint32_t* ordered, int64_t words) {
  constexpr int kTapWords = Phases::kTapBytes / 4;
  constexpr int kChannels = Phases::kPixelBytes / static_cast<int>(sizeof(Bits));
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= words) return;
  int64_t rest = i / kTapWords;
  const int tap = static_cast<int>(rest % (t.kh * t.kw));
  rest /= t.kh * t.kw;
  const int64_t chunk = rest % t.chunks, block = rest / t.chunks;
  ordered[i] = ordered_word(p, chunk * kChannels, block * kOutputs, static_cast<int>(i % kTapWords),
                            tap / t.kw, tap % t.kw, Bits{});
}

struct Place {
  int64_t n, row, col;  // of the block's first cell
  int block;            // of output channels
};

__device__ __forceinline__ Place block_place(const Phases& t) {
  int64_t i = blockIdx.x;  // channel blocks innermost: they read the same input
  Place at;
  at.block = static_cast<int>(i % t.channel_blocks);
  i /= t.channel_blocks;
  at.col = t.first_col + i % t.tiles_x * kCols;
  i /= t.tiles_x;
  at.row = t.first_row + i % t.tiles_y * kRows;
  at.n = i / t.tiles_y;
  return at;
}

// Brings one chunk of input channels into shared memory: weights [kh][kw][kTapBytes] and the pixels of
// the cells, one more above and one more to the left, [kRows + 1][kCols + 1][kPitchBytes].
template <class Storage>
__device__ __forceinline__ void load_chunk(const ConvParams& p, const Phases& t, const Place& at, int chunk,
                                           const uint4* ordered, uint4* weights, unsigned char* tile) {
  const int count = t.kh * t.kw * kTapVectors;
  const uint4* const from = ordered + (static_cast<int64_t>(at.block) * t.chunks + chunk) * count;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads)
    cp_async16(weights + i, from + i, true);
  constexpr int kPixels = (kRows + 1) * (kCols + 1);
  for (int i = static_cast<int>(threadIdx.x); i < kPixels * kPixelVectors; i += kThreads) {
    const int pixel = i / kPixelVectors, vector = i % kPixelVectors;
    const int64_t y = at.row - 1 + pixel / (kCols + 1), x = at.col - 1 + pixel % (kCols + 1);
    const int64_t c = (static_cast<int64_t>(chunk) * kPixelVectors + vector) * kVectorLanes<Storage>;
    const bool inside = c < p.input.size[1] && y >= 0 && y < p.input.size[2] && x >= 0 && x < p.input.size[3];
    cp_async16(tile + pixel * Phases::kPitchBytes + vector * 16,
               inside ? element<Storage>(p.input, at.n, c, y, x) : p.input.data, inside);
  }
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
}

// Stores a vector of channels k of the output of cell (row, col) in phase (fy, fx), if there is one.
template <class Storage>
__device__ __forceinline__ void store_phase(const ConvParams& p, bool wide, const float* slope,
                                            float (&v)[kVectorLanes<Storage>], int64_t n, int64_t k,
                                            int64_t row, int64_t col, int fy, int fx) {
  const int64_t y = 2 * row + fy - p.padding[0], x = 2 * col + fx - p.padding[1];
  if (y >= 0 && y < p.output.size[2] && x >= 0 && x < p.output.size[3])
    finish_vector<Storage>(p, wide, slope, v, n, k, y, x);
}

// ---- 16-bit elements: tensor cores ----

// One tap position of a chunk for both column phases. pixels: this lane's row of ldmatrix for the first
// 16 cells; weights: this lane's words of kernel column 0 of the kernel row.
template <class Storage>
__device__ __forceinline__ void multiply_position(const unsigned char* pixels, const uint2* weights, int j,
                                                  int kw, float (&sums)[2][2][4][4]) {
#pragma unroll
  for (int step = 0; step < 2; ++step) {
    uint32_t a[2][4];
#pragma unroll
    for (int m = 0; m < 2; ++m) ldmatrix<4>(a[m], pixels + m * 16 * Phases::kPitchBytes + step * 32);
#pragma unroll
    for (int fx = 0; fx < 2; ++fx) {
      if (j >= phase_taps(kw, fx)) continue;
      const uint2* const tap = weights + (fx + 2 * j) * (Phases::kTapBytes / 8) + step * 4 * 32;
#pragma unroll
      for (int matrix = 0; matrix < 4; ++matrix) {
        const uint2 two = tap[matrix * 32];
        const uint32_t b[2] = {two.x, two.y};
#pragma unroll
        for (int m = 0; m < 2; ++m) mma_16_bit(sums[fx][m][matrix], a[m], b, Storage{});
      }
    }
  }
}

// A warp takes one row of cells in one row phase; the four warps of a phase differ in the row.
// Registers: 64 sums, 8 + 2 operands, about 40 for addresses and the epilogue.
template <class Storage>
__global__ void __launch_bounds__(kThreads, 2)
    conv_transpose_phases_tensor_kernel(ConvParams p, Phases t, const uint4* ordered, bool wide) {
  SharedArena arena;
  uint4* const weights = arena.take<uint4>(static_cast<size_t>(t.kh * t.kw * kTapVectors));
  unsigned char* const tile =
      arena.take<unsigned char>((kRows + 1) * (kCols + 1) * static_cast<size_t>(Phases::kPitchBytes));
  float* const bias = arena.take<float>(kOutputs);
  float* const slope = arena.take<float>(kOutputs);
  const Place at = block_place(t);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int row = warp % kRows, fy = warp / kRows, first = lane % 4 * 8;
  load_channel_terms<Storage>(p, at.block * kOutputs, kOutputs, bias, slope);

  float sums[2][2][4][4] = {};  // [column phase][16 cells][matrix]
  // ldmatrix: lanes 0-15 address cells 0-15 and channels 0-7, lanes 16-31 the same cells, channels 8-15.
  const unsigned char* const own =
      tile + ((row + 1) * (kCols + 1) + 1 + lane % 16) * Phases::kPitchBytes + lane / 16 * 16;
  for (int chunk = 0; chunk < t.chunks; ++chunk) {
    if (chunk > 0) __syncthreads();
    load_chunk<Storage>(p, t, at, chunk, ordered, weights, tile);
    for (int i = 0; i < phase_taps(t.kh, fy); ++i) {
      const uint2* const kernel_row =
          reinterpret_cast<const uint2*>(weights + (fy + 2 * i) * t.kw * kTapVectors) + lane;
      for (int j = 0; j < phase_taps(t.kw, 0); ++j)
        multiply_position<Storage>(own - (i * (kCols + 1) + j) * Phases::kPitchBytes, kernel_row, j, t.kw,
                                   sums);
    }
  }
#pragma unroll
  for (int part = 0; part < 4; ++part)  // cells g, g + 8, g + 16, g + 24
#pragma unroll
    for (int fx = 0; fx < 2; ++fx) {
      float v[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] = sums[fx][part / 2][i / 2][part % 2 * 2 + i % 2] + bias[first + i];
      store_phase<Storage>(p, wide, slope + first, v, at.n, at.block * kOutputs + first, at.row + row,
                           at.col + part * 8 + lane / 4, fy, fx);
    }
}

// ---- float32: multiply-adds ----

constexpr int kCells = 4;  // of a thread, in a row

// The products of one input channel with up to four taps, of 4 cells by 4 outputs.
// tap: weights of this channel and the thread's outputs, of kernel row 2 i and column 2 j.
__device__ __forceinline__ void multiply_channel(const Phases& t, int i, int j, const float* tap,
                                                 const float (&x)[kCells], float (&sums)[2][2][kCells][4]) {
#pragma unroll
  for (int fy = 0; fy < 2; ++fy)
#pragma unroll
    for (int fx = 0; fx < 2; ++fx) {
      if (i >= phase_taps(t.kh, fy) || j >= phase_taps(t.kw, fx)) continue;
      const float4 w = *reinterpret_cast<const float4*>(tap + (fy * t.kw + fx) * (Phases::kTapBytes / 4));
#pragma unroll
      for (int cell = 0; cell < kCells; ++cell) {
        sums[fy][fx][cell][0] += w.x * x[cell];
        sums[fy][fx][cell][1] += w.y * x[cell];
        sums[fy][fx][cell][2] += w.z * x[cell];
        sums[fy][fx][cell][3] += w.w * x[cell];
      }
    }
}

// Registers: 64 sums, 16 inputs, 4 weights, about 30 more: two blocks fit.
__global__ void __launch_bounds__(kThreads, 2)
    conv_transpose_phases_float_kernel(ConvParams p, Phases t, const uint4* ordered, bool wide) {
  SharedArena arena;
  uint4* const weights = arena.take<uint4>(static_cast<size_t>(t.kh * t.kw * kTapVectors));
  unsigned char* const tile =
      arena.take<unsigned char>((kRows + 1) * (kCols + 1) * static_cast<size_t>(Phases::kPitchBytes));
  float* const bias = arena.take<float>(kOutputs);
  float* const slope = arena.take<float>(kOutputs);
  const Place at = block_place(t);
  const int vector = static_cast<int>(threadIdx.x) % 8, group = static_cast<int>(threadIdx.x) / 8;
  const int row = group / (kCols / kCells), col = group % (kCols / kCells) * kCells;
  load_channel_terms<float>(p, at.block * kOutputs, kOutputs, bias, slope);

  float sums[2][2][kCells][4] = {};
  for (int chunk = 0; chunk < t.chunks; ++chunk) {
    if (chunk > 0) __syncthreads();
    load_chunk<float>(p, t, at, chunk, ordered, weights, tile);
    for (int i = 0; i < phase_taps(t.kh, 0); ++i)
      for (int j = 0; j < phase_taps(t.kw, 0); ++j) {
        const unsigned char* const pixel =
            tile + ((row + 1 - i) * (kCols + 1) + col + 1 - j) * Phases::kPitchBytes;
        const float* tap =
            reinterpret_cast<const float*>(weights + 2 * (i * t.kw + j) * kTapVectors) + vector * 4;
        for (int four = 0; four < kPixelVectors; ++four, tap += 4 * kOutputs) {
          float4 x[kCells];
#pragma unroll
          for (int cell = 0; cell < kCells; ++cell)
            x[cell] = *reinterpret_cast<const float4*>(pixel + cell * Phases::kPitchBytes + four * 16);
          const float first[kCells] = {x[0].x, x[1].x, x[2].x, x[3].x};
          const float second[kCells] = {x[0].y, x[1].y, x[2].y, x[3].y};
          const float third[kCells] = {x[0].z, x[1].z, x[2].z, x[3].z};
          const float fourth[kCells] = {x[0].w, x[1].w, x[2].w, x[3].w};
          multiply_channel(t, i, j, tap, first, sums);
          multiply_channel(t, i, j, tap + kOutputs, second, sums);
          multiply_channel(t, i, j, tap + 2 * kOutputs, third, sums);
          multiply_channel(t, i, j, tap + 3 * kOutputs, fourth, sums);
        }
      }
  }
#pragma unroll
  for (int phase = 0; phase < 4; ++phase)
#pragma unroll
    for (int cell = 0; cell < kCells; ++cell) {
      float v[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) v[i] = sums[phase / 2][phase % 2][cell][i] + bias[vector * 4 + i];
      store_phase<float>(p, wide, slope + vector * 4, v, at.n, at.block * kOutputs + vector * 4, at.row + row,
                         at.col + col + cell, phase / 2, phase % 2);
    }
}

}  // namespace

int conv_transpose_phases_launch(const ConvParams& p, const LaunchContext& context) {
  const Phases t = conv_transpose_phases(p);
  const int64_t words = conv_transpose_phases_workspace(p, context.limits) / 4;
  const dim3 order_grid(static_cast<unsigned>((words + kThreads - 1) / kThreads));
  const auto order =
      p.input.dtype == DType::kFloat32 ? order_weights_kernel<float> : order_weights_kernel<uint16_t>;
  const int code = launch(order, order_grid, dim3(kThreads), 0, context.stream, p, t,
                          static_cast<uint32_t*>(context.workspace), words);
  if (code != 0) return code;
  const dim3 grid(static_cast<unsigned>(p.output.size[0] * t.tiles_x * t.tiles_y * t.channel_blocks));
  const auto kernel = p.input.dtype == DType::kFloat32   ? conv_transpose_phases_float_kernel
                      : p.input.dtype == DType::kFloat16 ? conv_transpose_phases_tensor_kernel<Float16>
                                                         : conv_transpose_phases_tensor_kernel<BFloat16>;
  return launch(kernel, grid, dim3(kThreads), t.shared_bytes, context.stream, p, t,
                static_cast<const uint4*>(context.workspace), wide_output(p));
}

}  // namespace denoise_ext::cuda
