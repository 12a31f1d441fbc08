// A tile of an image with the window's radius around it in shared memory, and the walk over the windows of
// four pixels of a column: what the bilateral filter and its gradients for few channels share.
//
// A block works on 32 x 32 pixels. A thread takes four pixels of a column: one pixel read from the tile
// serves the four windows it lies in, which differ by a row. Windows are walked column by column, so that a
// circle is only a shorter column.
#pragma once

#include "bilateral.cuh"
#include "primitives.cuh"

namespace denoise_ext::cuda {

constexpr int kCols = 32, kThreadRows = 8, kOutputs = 4, kRows = kThreadRows * kOutputs;
constexpr int kThreads = kCols * kThreadRows;
constexpr float kLog2E = 1.4426950408889634f;
// sqrt(log2 e): squared, it turns a natural logarithm into one to base 2.
constexpr float kRootLog2E = 1.2011224087864498f;

// Sizes that keep positions and products of sizes in int: far beyond what fits shared memory, and an axis
// of an image with room for its border.
constexpr int64_t kLargestWindow = 1 << 12, kLongestAxis = 1 << 29;

template <int kWidth>
struct alignas(4 * kWidth) Values {
  float value[kWidth];
};

// The kFloats values of a tile's pixels, in arrays of at most 16 bytes a pixel, so that neighbouring threads
// read neighbouring words.
template <int kFloats>
struct PixelArrays {
  static constexpr int kA = kFloats < 4 ? kFloats : 4;
  static constexpr int kB = kFloats < 8 ? (kFloats > 4 ? kFloats - 4 : 0) : 4;
  static constexpr int kC = kFloats > 8 ? kFloats - 8 : 0;
  static_assert(kA != 3 && kB != 3 && kC != 3, "reads are of 4, 8 or 16 bytes");

  float *a, *b, *c;  // [pixels][kA], [pixels][kB], [pixels][kC]

  static size_t bytes(size_t pixels) {
    return SharedArena::bytes<float>(kA * pixels) + SharedArena::bytes<float>(kB * pixels) +
           SharedArena::bytes<float>(kC * pixels);
  }
  __device__ __forceinline__ void take(SharedArena& arena, size_t pixels) {
    a = arena.take<float>(kA * pixels);
    if constexpr (kB > 0) b = arena.take<float>(kB * pixels);
    if constexpr (kC > 0) c = arena.take<float>(kC * pixels);
  }
  __device__ __forceinline__ void read(int pixel, float (&v)[kFloats]) const {
    read_part<kA, 0>(a, pixel, v);
    if constexpr (kB > 0) read_part<kB, 4>(b, pixel, v);
    if constexpr (kC > 0) read_part<kC, 8>(c, pixel, v);
  }
  // The arrays from a pixel on.
  __device__ __forceinline__ PixelArrays at(int pixel) const {
    PixelArrays on = *this;
    on.a += kA * pixel;
    if constexpr (kB > 0) on.b += kB * pixel;
    if constexpr (kC > 0) on.c += kC * pixel;
    return on;
  }
  __device__ __forceinline__ void write(int pixel, const float (&v)[kFloats]) const {
    write_part<kA, 0>(a, pixel, v);
    if constexpr (kB > 0) write_part<kB, 4>(b, pixel, v);
    if constexpr (kC > 0) write_part<kC, 8>(c, pixel, v);
  }

 private:
  template <int kWidth, int kFirst>
  static __device__ __forceinline__ void read_part(const float* from, int pixel, float (&v)[kFloats]) {
    const Values<kWidth> part = reinterpret_cast<const Values<kWidth>*>(from)[pixel];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) v[kFirst + i] = part.value[i];
  }
  template <int kWidth, int kFirst>
  static __device__ __forceinline__ void write_part(float* to, int pixel, const float (&v)[kFloats]) {
    Values<kWidth> part;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) part.value[i] = v[kFirst + i];
    reinterpret_cast<Values<kWidth>*>(to)[pixel] = part;
  }
};

// Tables of a tile, beside its pixels.
struct BilateralTile {
  int rows, cols;
  int* source;     // [rows + cols]: the row, then the column, that a position is read from, or -1
  float* space_y;  // [2 radius + 1]: logarithms to base 2
  float* space_x;  // [2 radius + 1]
  int* extent;     // [2 radius + 1]: rows above and below the centre in each column
};

__host__ __device__ __forceinline__ int tile_rows(const BilateralParams& p) {
  return kRows + 2 * static_cast<int>(p.kernel_size[0] / 2);
}
__host__ __device__ __forceinline__ int tile_cols(const BilateralParams& p) {
  return kCols + 2 * static_cast<int>(p.kernel_size[1] / 2);
}

template <int kFloats>
size_t tile_bytes(const BilateralParams& p) {
  const size_t rows = static_cast<size_t>(tile_rows(p)), cols = static_cast<size_t>(tile_cols(p));
  const size_t height = static_cast<size_t>(p.kernel_size[0]), width = static_cast<size_t>(p.kernel_size[1]);
  return PixelArrays<kFloats>::bytes(rows * cols) + SharedArena::bytes<int>(rows + cols) +
         SharedArena::bytes<float>(height) + SharedArena::bytes<float>(width) +
         SharedArena::bytes<int>(width);
}

// nullptr, or why a kernel that takes so much shared memory for a tile is impossible.
inline const char* tile_cannot(const BilateralParams& p, int64_t bytes, const DeviceLimits& limits) {
  if (p.input.dtype == DType::kFloat64) return "float64 is not compiled into it";
  if (p.input.size[2] > kLongestAxis || p.input.size[3] > kLongestAxis)
    return "it counts rows and columns in 32 bits";
  if (p.kernel_size[0] > kLargestWindow || p.kernel_size[1] > kLargestWindow || bytes > limits.shared_bytes)
    return "the tile with so large a window around it does not fit a block's shared memory";
  return nullptr;
}

template <int kFloats>
__device__ __forceinline__ BilateralTile tile_arrays(const BilateralParams& p, SharedArena& arena,
                                                     PixelArrays<kFloats>& pixels) {
  BilateralTile t{};
  t.rows = tile_rows(p);
  t.cols = tile_cols(p);
  pixels.take(arena, static_cast<size_t>(t.rows) * t.cols);
  t.source = arena.take<int>(t.rows + t.cols);
  t.space_y = arena.take<float>(static_cast<size_t>(p.kernel_size[0]));
  t.space_x = arena.take<float>(static_cast<size_t>(p.kernel_size[1]));
  t.extent = arena.take<int>(static_cast<size_t>(p.kernel_size[1]));
  return t;
}

// Tables of the tile whose pixels begin at (y0, x0), by all threads; a barrier must follow. A thread makes an
// entry or none of each, so unrolled loops would be idle code.
__device__ __forceinline__ void make_tables(const BilateralParams& p, const BilateralTile& t, int y0, int x0,
                                            const BilateralScales<float>& scales, int thread) {
  const int radius_y = static_cast<int>(p.kernel_size[0] / 2),
            radius_x = static_cast<int>(p.kernel_size[1] / 2);
#pragma unroll 1
  for (int i = thread; i < t.rows + t.cols; i += kThreads) {
    const bool row = i < t.rows;
    const int at = row ? y0 - radius_y + i : x0 - radius_x + i - t.rows;
    t.source[i] = border_index(at, static_cast<int>(row ? p.input.size[2] : p.input.size[3]), p.border);
  }
#pragma unroll 1
  for (int i = thread; i <= 2 * radius_y; i += kThreads)
    t.space_y[i] = -kLog2E * space_exponent(i - radius_y, scales.y);
#pragma unroll 1
  for (int i = thread; i <= 2 * radius_x; i += kThreads) {
    t.space_x[i] = -kLog2E * space_exponent(i - radius_x, scales.x);
    t.extent[i] = p.circle ? window_extent(p, i - radius_x) : radius_y;
  }
}

// Fills the tile: fill(row, col, v) gives the values of one pixel. kAtOnce: pixels whose loads are in flight
// together.
template <int kAtOnce, int kFloats, class Fill>
__device__ __forceinline__ void load_tile(const BilateralTile& t, const PixelArrays<kFloats>& pixels,
                                          int thread, const Fill& fill) {
  int row = thread / t.cols, col = thread % t.cols;
  const int rows_on = kThreads / t.cols, cols_on = kThreads % t.cols;
#pragma unroll kAtOnce
  for (int i = thread; i < t.rows * t.cols; i += kThreads) {
    float v[kFloats] = {};
    fill(row, col, v);
    pixels.write(i, v);
    row += rows_on;
    col += cols_on;
    if (col >= t.cols) {
      col -= t.cols;
      ++row;
    }
  }
}

// How the distance of two colours is measured. Of kSquares the squares are scaled, not the differences,
// which is less work; scale_squares() tells where they cannot overflow or vanish.
enum class Distance { kL1, kL2, kSquares };

__device__ __forceinline__ bool scale_squares(float scale) {
  return scale >= 0x1p-40f && scale <= 0x1p40f;
}

// The logarithm to base 2 of a weight, given that of its spatial part; scale: sqrt(log2(e) / 2) / sigma, of
// kSquares the square of that.
template <int kGuide, Distance kDistance>
__device__ __forceinline__ float log_weight(const float* v, const float (&centre)[kGuide], float scale,
                                            float space) {
  float sum = space;
#pragma unroll
  for (int c = 0; c < kGuide; ++c) {
    const float difference = v[c] - centre[c], scaled = difference * scale;
    const float part = kDistance == Distance::kL1 ? fabsf(difference) : difference * difference;
    if constexpr (kDistance == Distance::kL2) {
      sum -= scaled * scaled;
    } else {
      sum = c == 0 ? part : sum + part;
    }
  }
  if constexpr (kDistance == Distance::kL2) return sum;
  if constexpr (kDistance == Distance::kSquares) return space - sum * scale;
  const float distance = sum * scale;
  return space - distance * distance;
}

// Finite, as inverse() is.
__device__ __forceinline__ float color_scale(const BilateralScales<float>& scales) {
  return fminf(scales.color * kRootLog2E, kLargestFloat);
}

// The spatial logarithms of the four windows in a row of a column, of which the next row has three, too.
struct SpaceLogs {
  const float* next_log;  // in space_y: of the first window's next tap
  float column;           // space_x
  float window[kOutputs];

  __device__ __forceinline__ SpaceLogs(const BilateralTile& t, int radius_y, int dx)
      : next_log(t.space_y + radius_y - t.extent[dx]), column(t.space_x[dx]), window{} {}
  // On to the next row; kFirst: the first window that has a tap there.
  template <int kFirst>
  __device__ __forceinline__ void next_row() {
#pragma unroll
    for (int k = kOutputs - 1; k > 0; --k) window[k] = window[k - 1];
    if constexpr (kFirst == 0) window[0] = *next_log++ + column;
  }
};

// Windows kFirst .. kLast of the four.
template <int kFirst, int kLast>
struct Among {
  static constexpr int kFrom = kFirst, kTo = kLast;
};

// Walks a column of the four windows, a row at a time: add(Among<...>{}). `extent` rows above and below each
// centre belong to it, so that the first row is `extent` above the first window's centre: one window more
// with each of the first three rows, one less with each of the last three. kRowsAtOnce: 1 or 2, whose loads
// are in flight together.
template <int kRowsAtOnce, class Add>
__device__ __forceinline__ void walk_column(int extent, const Add& add) {
  if (extent == 0) {
    add(Among<0, 0>{});
    add(Among<1, 1>{});
    add(Among<2, 2>{});
    add(Among<3, 3>{});
    return;
  }
  add(Among<0, 0>{});
  add(Among<0, 1>{});
  add(Among<0, 2>{});
#pragma unroll 1
  for (int rows = 2 * extent - 2; rows > 0; rows -= kRowsAtOnce) {
#pragma unroll
    for (int i = 0; i < kRowsAtOnce; ++i) add(Among<0, 3>{});
  }
  add(Among<1, 3>{});
  add(Among<2, 3>{});
  add(Among<3, 3>{});
}

}  // namespace denoise_ext::cuda
