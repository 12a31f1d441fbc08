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

// Which weight a word of the ordered ones holds: `in_tap` runs over [k-step 2][matrix 4 / 2][lane 32][matrix
// 2][half 2] pairs of 16-bit elements (mma's b; column_channel() maps them to outputs), or [c 16][k 32]
// floats.
__device__ __forceinline__ uint32_t ordered_word(const ConvParams& p, int64_t first_c, int64_t first_k,
                                                 int in_tap, int u, int v, float) {
  const int64_t c = first_c + in_tap / kOutputs, k = first_k + in_tap % kOutputs;
  if (c >= p.weight.size[0] || k >= p.weight.size[1]) return 0;
  return *element<uint32_t>(p.weight, c, k, u, v);
}
__device__ __forceinline__ uint32_t ordered_word(const ConvParams& p, int64_t first_c, int64_t first_k,
                                                 int in_tap, int u, int v, uint16_t) {
  const int half = in_tap % 2, lane = in_tap / 4 % 32, step = in_tap / 256;
  const int matrix = in_tap / 128 % 2 * 2 + in_tap / 2 % 2;
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

// A tile: image, and its row and column of tiles.
struct Place {
  int n, down, along;
};

// Which tiles and output channels are a block's: the first, and every t.step-th after it. Channels innermost:
// those blocks read the same input.
__device__ __forceinline__ Place first_place(const Phases& t) {
  const unsigned tile = blockIdx.x / static_cast<unsigned>(t.channel_blocks);
  const unsigned along = static_cast<unsigned>(t.tiles_x), down = static_cast<unsigned>(t.tiles_y);
  return {static_cast<int>(tile / along / down), static_cast<int>(tile / along % down),
          static_cast<int>(tile % along)};
}
__device__ __forceinline__ Place next_place(const Phases& t, Place at) {
  at.along += t.step_along;
  at.down += t.step_down;
  at.n += t.step_images;
  if (at.along >= t.tiles_x) {
    at.along -= t.tiles_x;
    ++at.down;
  }
  if (at.down >= t.tiles_y) {
    at.down -= t.tiles_y;
    ++at.n;
  }
  return at;
}
// Its first cell.
__device__ __forceinline__ int first_row(const Phases& t, const Place& at) {
  return t.first_row + at.down * kRows;
}
__device__ __forceinline__ int first_col(const Phases& t, const Place& at) {
  return t.first_col + at.along * kCols;
}

// Starts the copies of the ordered weights of `chunks` chunks, from number `first` on.
__device__ __forceinline__ void load_weights(const Phases& t, const uint4* ordered, int first, int chunks,
                                             uint4* weights) {
  const int chunk_vectors = t.kh * t.kw * kTapVectors, count = chunks * chunk_vectors;
  const uint4* const from = ordered + static_cast<int64_t>(first) * chunk_vectors;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads)
    cp_async16(weights + i, from + i, true);
}

// Starts the copies of one chunk of a tile's pixels, zeros outside the image. tile: [kRows + 1][kCols + 1]
// [kPitchBytes], from the pixel above and to the left of the first cell on. kGroups groups of threads take
// every kGroups-th row each, but for its last pixel, so that all but the row is computed once.
template <class Storage>
__device__ __forceinline__ void load_pixels(const ConvParams& p, const Phases& t, const Place& at, int chunk,
                                            unsigned char* tile) {
  constexpr int kGroupThreads = kCols * kPixelVectors, kGroups = kThreads / kGroupThreads;
  constexpr int kRowBytes = (kCols + 1) * Phases::kPitchBytes;
  static_assert(kThreads % kGroupThreads == 0 && (kRows + 1) * kPixelVectors <= kThreads,
                "one turn for the last");
  const Tensor4& input = p.input;
  const Storage* const data = static_cast<const Storage*>(input.data);
  const int height = static_cast<int>(input.size[2]), width = static_cast<int>(input.size[3]);
  const int vector = static_cast<int>(threadIdx.x % kPixelVectors);
  const int c = (chunk * kPixelVectors + vector) * kVectorLanes<Storage>;
  const auto offset_of = [&](int y, int x) {
    return at.n * input.stride[0] + c + y * input.stride[2] + x * input.stride[3];
  };
  const auto column_inside = [&](int x) {
    return x >= 0 && x < width && c < static_cast<int>(input.size[1]);
  };
  const int top = first_row(t, at) - 1, left = first_col(t, at) - 1;
  const int first = static_cast<int>(threadIdx.x / kGroupThreads);
  const int col = static_cast<int>(threadIdx.x / kPixelVectors % kCols), x = left + col;
  const bool inside_x = column_inside(x);
  int64_t offset = offset_of(top + first, x);
  unsigned char* to = tile + first * kRowBytes + col * Phases::kPitchBytes + vector * 16;
#pragma unroll 1
  for (int row = first; row <= kRows; row += kGroups) {
    const int y = top + row;
    const bool inside = inside_x && y >= 0 && y < height;
    cp_async16(to, inside ? data + offset : data, inside);
    offset += kGroups * input.stride[2];
    to += kGroups * kRowBytes;
  }
  if (threadIdx.x < (kRows + 1) * kPixelVectors) {
    const int row = static_cast<int>(threadIdx.x / kPixelVectors), y = top + row, last = left + kCols;
    const bool inside = column_inside(last) && y >= 0 && y < height;
    cp_async16(tile + row * kRowBytes + kCols * Phases::kPitchBytes + vector * 16,
               inside ? data + offset_of(y, last) : data, inside);
  }
}

// ---- 16-bit elements: tensor cores ----

// One tap position of a chunk for the first column phases of two. pixels: this lane's row of ldmatrix for the
// first 16 cells; weights: its words of the first phase's tap.
template <class Storage, int kPhases>
__device__ __forceinline__ void multiply_position(const unsigned char* pixels, const uint4* weights,
                                                  float (&sums)[2][2][4][4]) {
#pragma unroll 1  // fragments of two steps would take registers that spill
  for (int step = 0; step < 2; ++step) {
    uint32_t a[2][4];
#pragma unroll
    for (int m = 0; m < 2; ++m) ldmatrix<4>(a[m], pixels + m * 16 * Phases::kPitchBytes + step * 32);
#pragma unroll
    for (int fx = 0; fx < kPhases; ++fx)
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        const uint4 four = weights[fx * kTapVectors + (step * 2 + pair) * 32];
        const uint32_t b[2][2] = {{four.x, four.y}, {four.z, four.w}};
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
          for (int m = 0; m < 2; ++m) mma_16_bit(sums[fx][m][2 * pair + i], a[m], b[i], Storage{});
      }
  }
}

// The products of a chunk in row phase fy. pixels, weights: this lane's, of the cell's own pixel and of the
// chunk's first tap.
template <class Storage>
__device__ __forceinline__ void multiply_chunk(const Phases& t, const unsigned char* pixels,
                                               const uint4* weights, int fy, float (&sums)[2][2][4][4]) {
  weights += fy * t.kw * kTapVectors;
#pragma unroll 1
  for (int i = 0; i < phase_taps(t.kh, fy); ++i) {
    const unsigned char* from = pixels;
    const uint4* taps = weights;
#pragma unroll 1
    for (int j = 0; j < phase_taps(t.kw, 1); ++j) {
      multiply_position<Storage, 2>(from, taps, sums);
      from -= Phases::kPitchBytes;
      taps += 2 * kTapVectors;
    }
    if (t.kw % 2 == 1) multiply_position<Storage, 1>(from, taps, sums);
    pixels -= (kCols + 1) * Phases::kPitchBytes;
    weights += 2 * t.kw * kTapVectors;
  }
}

// A warp takes one row of cells in one row phase; the four warps of a phase differ in the row.
// Registers: 64 sums, 8 + 4 operands, about 45 for addresses and the epilogue: two blocks fit.
template <class Storage>
__global__ void __launch_bounds__(kThreads, 2)
    conv_transpose_phases_tensor_kernel(ConvParams p, Phases t, const uint4* ordered, bool wide) {
  const int chunk_vectors = t.kh * t.kw * kTapVectors;
  SharedArena arena;
  uint4* const weights = arena.take<uint4>(static_cast<size_t>(chunk_vectors * (t.resident ? t.chunks : 1)));
  unsigned char* const tile = arena.take<unsigned char>((t.resident ? 2 : 1) * size_t{Phases::kTileBytes});
  float* const bias = arena.take<float>(kOutputs);
  float* const slope = arena.take<float>(kOutputs);
  const int block = static_cast<int>(blockIdx.x % static_cast<unsigned>(t.channel_blocks));
  const int images = static_cast<int>(p.output.size[0]);
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int row = warp % kRows, fy = warp / kRows, first = lane % 4 * 8;
  // ldmatrix: lanes 0-15 address cells 0-15 and channels 0-7, lanes 16-31 the same cells, channels 8-15.
  const int own = ((row + 1) * (kCols + 1) + 1 + lane % 16) * Phases::kPitchBytes + lane / 16 * 16;
  int buffer = 0;  // of two, where the chunk's pixels are
  load_channel_terms<Storage>(p, block * kOutputs, kOutputs, bias, slope);
  if (t.resident) {
    load_weights(t, ordered, block * t.chunks, t.chunks, weights);
    load_pixels<Storage>(p, t, first_place(t), 0, tile);
    cp_async_commit();
  }
  __syncthreads();
#pragma unroll 1
  for (Place at = first_place(t); at.n < images; at = next_place(t, at)) {
    float sums[2][2][4][4];  // [column phase][16 cells][matrix]
#pragma unroll
    for (int i = 0; i < 64; ++i)
      sums[i / 32][i / 16 % 2][i / 4 % 4][i % 4] = bias[first + i / 4 % 4 * 2 + i % 2];
    int chunk = 0;
    do {
      // Copies of what is next while this chunk is multiplied; or of this chunk, with a wait for it.
      Place from = at;
      int copied = chunk;
      bool more = true;
      if (t.resident) {
        cp_async_wait<0>();
        __syncthreads();
        if (++copied == t.chunks) {
          copied = 0;
          from = next_place(t, at);
          more = from.n < images;
        }
      } else {
        if (chunk > 0) __syncthreads();
        load_weights(t, ordered, block * t.chunks + chunk, 1, weights);
      }
      if (more)
        load_pixels<Storage>(p, t, from, copied, tile + (t.resident ? Phases::kTileBytes - buffer : 0));
      cp_async_commit();
      if (!t.resident) {
        cp_async_wait<0>();
        __syncthreads();
      }
      multiply_chunk<Storage>(t, tile + buffer + own,
                              weights + (t.resident ? chunk * chunk_vectors : 0) + lane, fy, sums);
      buffer = t.resident ? Phases::kTileBytes - buffer : 0;
    } while (++chunk < t.chunks);
    float v[8][8];  // of cells g, g + 8, g + 16, g + 24, the two column phases of each
#pragma unroll
    for (int part = 0; part < 8; ++part)
#pragma unroll
      for (int i = 0; i < 8; ++i) v[part][i] = sums[part % 2][part / 4][i / 2][part / 2 % 2 * 2 + i % 2];
    const int y = 2 * (first_row(t, at) + row) + fy - t.top, x = 2 * (first_col(t, at) + lane / 4) - t.left;
    finish_vectors<Storage>(p, wide, slope + first, v, at.n, block * kOutputs + first, y,
                            [&](int part) { return x + 16 * (part / 2) + part % 2; });
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
  unsigned char* const tile = arena.take<unsigned char>(Phases::kTileBytes);
  float* const bias = arena.take<float>(kOutputs);
  float* const slope = arena.take<float>(kOutputs);
  const int block = static_cast<int>(blockIdx.x % static_cast<unsigned>(t.channel_blocks));
  const Place at = first_place(t);
  const int vector = static_cast<int>(threadIdx.x) % 8, group = static_cast<int>(threadIdx.x) / 8;
  const int row = group / (kCols / kCells), col = group % (kCols / kCells) * kCells;
  load_channel_terms<float>(p, block * kOutputs, kOutputs, bias, slope);

  float sums[2][2][kCells][4] = {};
  for (int chunk = 0; chunk < t.chunks; ++chunk) {
    if (chunk > 0) __syncthreads();
    load_weights(t, ordered, block * t.chunks + chunk, 1, weights);
    load_pixels<float>(p, t, at, chunk, tile);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
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
  for (int fy = 0; fy < 2; ++fy) {
    float v[2 * kCells][4];  // of the cells, the two column phases of each
#pragma unroll
    for (int part = 0; part < 2 * kCells; ++part)
#pragma unroll
      for (int i = 0; i < 4; ++i) v[part][i] = sums[fy][part % 2][part / 2][i] + bias[vector * 4 + i];
    const int y = 2 * (first_row(t, at) + row) + fy - t.top, x = 2 * (first_col(t, at) + col) - t.left;
    finish_vectors<float>(p, wide, slope + vector * 4, v, at.n, block * kOutputs + vector * 4, y,
                          [&](int part) { return x + part; });
  }
}

}  // namespace

int conv_transpose_phases_launch(const ConvParams& p, const LaunchContext& context) {
  const Phases t = conv_transpose_phases(p, context.limits);
  const int64_t words = conv_transpose_phases_workspace(p, context.limits) / 4;
  const dim3 order_grid(static_cast<unsigned>((words + kThreads - 1) / kThreads));
  const auto order =
      p.input.dtype == DType::kFloat32 ? order_weights_kernel<float> : order_weights_kernel<uint16_t>;
  const int code = launch(order, order_grid, dim3(kThreads), 0, context.stream, p, t,
                          static_cast<uint32_t*>(context.workspace), words);
  if (code != 0) return code;
  const dim3 grid(static_cast<unsigned>(t.blocks));
  const auto kernel = p.input.dtype == DType::kFloat32   ? conv_transpose_phases_float_kernel
                      : p.input.dtype == DType::kFloat16 ? conv_transpose_phases_tensor_kernel<Float16>
                                                         : conv_transpose_phases_tensor_kernel<BFloat16>;
  return launch(kernel, grid, dim3(kThreads), t.shared_bytes, context.stream, p, t,
                static_cast<const uint4*>(context.workspace), wide_output(p));
}

}  // namespace denoise_ext::cuda
