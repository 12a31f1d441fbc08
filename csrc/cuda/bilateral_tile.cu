// The joint bilateral filter for 1, 3 or 4 channels, any radius that shared memory holds.
//
// A block filters 32 x 32 pixels from a tile with the window's radius around it (border applied on
// loading). A thread takes four pixels of a column: one pixel read from the tile serves the four windows
// it lies in, which differ by a row. Windows are walked column by column, so that a circle is only a
// shorter column.
//
// Per tap and three channels: 5 subtractions and additions of the distance, 1 multiplication by the
// scale, 2 for the exponent, 1 exponential, 4 for the sums: 13 instructions, and a quarter of the loads.
// Registers: 12 centre values, 16 sums, below 64 in all. Shared memory: radius 5, three channels: 42 x 42
// x 16 bytes = 28 KiB.
#include "bilateral.cuh"
#include "bilateral_variants.h"
#include "common.cuh"
#include "primitives.cuh"

namespace denoise_ext::cuda {
namespace {

constexpr int kCols = 32, kThreadRows = 8, kOutputs = 4, kRows = kThreadRows * kOutputs;
constexpr int kThreads = kCols * kThreadRows;

// kWidth floats of a pixel that are read at once.
template <int kWidth>
struct alignas(4 * kWidth) Values {
  float value[kWidth];
};

// kGuide guidance channels; kInput input channels, 0: the guidance is the input.
template <int kGuide, int kInput>
struct PixelLayout {
  static constexpr int kValues = kGuide + kInput;
  static constexpr int kChannels = kInput == 0 ? kGuide : kInput;
  // Two arrays, so that neighbouring threads read neighbouring words of at most 16 bytes.
  static constexpr int kFirst = kValues == 3 ? 4 : (kValues < 4 ? kValues : 4);
  static constexpr int kSecond = kValues > 4 ? kValues - 4 : 0;
  static_assert(kSecond == 0 || kSecond == 2, "one value, two, four or six");
};

struct Tile {
  void *first, *second;          // [rows][cols] of Values<kFirst>, Values<kSecond>
  int *source_row, *source_col;  // [rows], [cols]: where they are read from, or -1
  float4* space_y;               // [2 radius + 4]: logarithms to base 2 for the four windows
  float* space_x;                // [2 radius + 1]
  int* extent;                   // [2 radius + 1]: rows above and below the centre in each column
  int rows, cols;
};

__host__ __device__ __forceinline__ int tile_rows(const BilateralParams& p) {
  return kRows + 2 * static_cast<int>(p.kernel_size[0] / 2);
}
__host__ __device__ __forceinline__ int tile_cols(const BilateralParams& p) {
  return kCols + 2 * static_cast<int>(p.kernel_size[1] / 2);
}

template <class Layout>
size_t tile_bytes(const BilateralParams& p) {
  const size_t rows = static_cast<size_t>(tile_rows(p)), cols = static_cast<size_t>(tile_cols(p));
  return SharedArena::bytes<Values<Layout::kFirst>>(rows * cols) +
         SharedArena::bytes<float>(Layout::kSecond * rows * cols) + SharedArena::bytes<int>(rows) +
         SharedArena::bytes<int>(cols) +
         SharedArena::bytes<float4>(static_cast<size_t>(p.kernel_size[0]) + 3) +
         SharedArena::bytes<float>(static_cast<size_t>(p.kernel_size[1])) +
         SharedArena::bytes<int>(static_cast<size_t>(p.kernel_size[1]));
}

template <class Layout>
__device__ __forceinline__ Tile tile_arrays(const BilateralParams& p) {
  Tile t{};
  SharedArena arena;
  t.rows = tile_rows(p);
  t.cols = tile_cols(p);
  const size_t pixels = static_cast<size_t>(t.rows) * t.cols;
  t.first = arena.take<Values<Layout::kFirst>>(pixels);
  if constexpr (Layout::kSecond > 0) t.second = arena.take<Values<Layout::kSecond>>(pixels);
  t.source_row = arena.take<int>(t.rows);
  t.source_col = arena.take<int>(t.cols);
  t.space_y = arena.take<float4>(static_cast<size_t>(p.kernel_size[0]) + 3);
  t.space_x = arena.take<float>(static_cast<size_t>(p.kernel_size[1]));
  t.extent = arena.take<int>(static_cast<size_t>(p.kernel_size[1]));
  return t;
}

// Tables of the block's image and place, by all threads; a barrier must follow. Logarithms are to base 2.
__device__ __forceinline__ void make_tables(const BilateralParams& p, const Tile& t, int64_t y0, int64_t x0,
                                            const BilateralScales<float>& scales, int thread) {
  constexpr float kLog2E = 1.4426950408889634f;
  const int radius_y = static_cast<int>(p.kernel_size[0] / 2),
            radius_x = static_cast<int>(p.kernel_size[1] / 2);
  for (int i = thread; i < t.rows; i += kThreads)
    t.source_row[i] = static_cast<int>(border_index(y0 - radius_y + i, p.input.size[2], p.border));
  for (int i = thread; i < t.cols; i += kThreads)
    t.source_col[i] = static_cast<int>(border_index(x0 - radius_x + i, p.input.size[3], p.border));
  // Row i of the tile below the first window's top is tap i - k of window k.
  for (int i = thread; i < 2 * radius_y + kOutputs; i += kThreads) {
    float4 logs;
    logs.x = -kLog2E * space_exponent(i - radius_y, scales.y);
    logs.y = -kLog2E * space_exponent(i - 1 - radius_y, scales.y);
    logs.z = -kLog2E * space_exponent(i - 2 - radius_y, scales.y);
    logs.w = -kLog2E * space_exponent(i - 3 - radius_y, scales.y);
    t.space_y[i] = logs;
  }
  for (int i = thread; i <= 2 * radius_x; i += kThreads) {
    t.space_x[i] = -kLog2E * space_exponent(i - radius_x, scales.x);
    t.extent[i] = p.circle ? window_extent(p, i - radius_x) : radius_y;
  }
}

template <int kGuide, int kInput>
__device__ __forceinline__ void load_tile(const BilateralParams& p, const Tile& t, int64_t n) {
  using Layout = PixelLayout<kGuide, kInput>;
  with_pixels<float>(p.input.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    const Storage* guidance = static_cast<const Storage*>(p.guidance.data) + n * p.guidance.stride[0];
    const Storage* input = static_cast<const Storage*>(p.input.data) + n * p.input.stride[0];
    for (int row = static_cast<int>(threadIdx.y); row < t.rows; row += kThreadRows) {
      const int64_t y = t.source_row[row];
#pragma unroll 2
      for (int col = static_cast<int>(threadIdx.x); col < t.cols; col += kCols) {
        const int64_t x = t.source_col[col];
        const bool inside = y >= 0 && x >= 0;
        float v[8] = {};
        if (inside) {
#pragma unroll
          for (int c = 0; c < kGuide; ++c)
            v[c] = to_acc<float>(
                guidance[y * p.guidance.stride[2] + x * p.guidance.stride[3] + c * p.guidance.stride[1]]);
#pragma unroll
          for (int c = 0; c < kInput; ++c)
            v[kGuide + c] =
                to_acc<float>(input[y * p.input.stride[2] + x * p.input.stride[3] + c * p.input.stride[1]]);
        }
        Values<Layout::kFirst> first;
#pragma unroll
        for (int i = 0; i < Layout::kFirst; ++i) first.value[i] = v[i];
        static_cast<Values<Layout::kFirst>*>(t.first)[row * t.cols + col] = first;
        if constexpr (Layout::kSecond > 0) {
          Values<Layout::kSecond> second;
#pragma unroll
          for (int i = 0; i < Layout::kSecond; ++i) second.value[i] = v[4 + i];
          static_cast<Values<Layout::kSecond>*>(t.second)[row * t.cols + col] = second;
        }
      }
    }
  });
}

template <int kGuide, int kInput>
__device__ __forceinline__ void read_pixel(const Tile& t, int index, float (&v)[kGuide + kInput]) {
  using Layout = PixelLayout<kGuide, kInput>;
  const auto first = static_cast<const Values<Layout::kFirst>*>(t.first)[index];
#pragma unroll
  for (int i = 0; i < Layout::kFirst; ++i)
    if (i < Layout::kValues) v[i] = first.value[i];
  if constexpr (Layout::kSecond > 0) {
    const auto second = static_cast<const Values<Layout::kSecond>*>(t.second)[index];
#pragma unroll
    for (int i = 0; i < Layout::kSecond; ++i) v[4 + i] = second.value[i];
  }
}

// The four windows of a thread.
template <int kGuide, int kInput>
struct Windows {
  float centre[kOutputs][kGuide];
  float sums[kOutputs][PixelLayout<kGuide, kInput>::kChannels];
  float totals[kOutputs];
};

// The logarithm of a weight, given that of its spatial part.
template <int kGuide, bool kL1>
__device__ __forceinline__ float log_weight(const float* v, const float (&centre)[kGuide], float scale,
                                            float space) {
  if constexpr (kL1) {
    float distance = 0;
#pragma unroll
    for (int c = 0; c < kGuide; ++c) distance += fabsf(v[c] - centre[c]);
    distance *= scale;
    return space - distance * distance;
  } else {
    float sum = space;
#pragma unroll
    for (int c = 0; c < kGuide; ++c) {
      const float difference = (v[c] - centre[c]) * scale;
      sum -= difference * difference;
    }
    return sum;
  }
}

// Adds the pixel `row` rows below the top of the first window, in a column of the tile, to windows kFrom
// .. kTo.
template <int kGuide, int kInput, bool kL1, int kFrom, int kTo>
__device__ __forceinline__ void add_pixel(const Tile& t, int row, int top, float scale, float space_x,
                                          Windows<kGuide, kInput>& w) {
  float v[kGuide + kInput];
  read_pixel<kGuide, kInput>(t, top + row * t.cols, v);
  const float4 logs = t.space_y[row];
  const float space[kOutputs] = {logs.x, logs.y, logs.z, logs.w};
#pragma unroll
  for (int k = kFrom; k <= kTo; ++k) {
    const float weight = exp2_approx(log_weight<kGuide, kL1>(v, w.centre[k], scale, space[k] + space_x));
    w.totals[k] += weight;
#pragma unroll
    for (int c = 0; c < PixelLayout<kGuide, kInput>::kChannels; ++c)
      w.sums[k][c] += weight * v[kInput == 0 ? c : kGuide + c];
  }
}

// Adds a column of the windows: `extent` rows above and below each centre. Window k takes rows
// k + radius - extent .. k + radius + extent: one window more with each of the first three rows, one less
// with each of the last three.
template <int kGuide, int kInput, bool kL1>
__device__ __forceinline__ void add_column(const Tile& t, int radius, int extent, int top, float scale,
                                           float space_x, Windows<kGuide, kInput>& w) {
  if (extent == 0) {
    add_pixel<kGuide, kInput, kL1, 0, 0>(t, radius, top, scale, space_x, w);
    add_pixel<kGuide, kInput, kL1, 1, 1>(t, radius + 1, top, scale, space_x, w);
    add_pixel<kGuide, kInput, kL1, 2, 2>(t, radius + 2, top, scale, space_x, w);
    add_pixel<kGuide, kInput, kL1, 3, 3>(t, radius + 3, top, scale, space_x, w);
    return;
  }
  const int first = radius - extent, last = radius + extent;
  add_pixel<kGuide, kInput, kL1, 0, 0>(t, first, top, scale, space_x, w);
  add_pixel<kGuide, kInput, kL1, 0, 1>(t, first + 1, top, scale, space_x, w);
  add_pixel<kGuide, kInput, kL1, 0, 2>(t, first + 2, top, scale, space_x, w);
#pragma unroll 2
  for (int row = first + 3; row <= last; ++row)
    add_pixel<kGuide, kInput, kL1, 0, 3>(t, row, top, scale, space_x, w);
  add_pixel<kGuide, kInput, kL1, 1, 3>(t, last + 1, top, scale, space_x, w);
  add_pixel<kGuide, kInput, kL1, 2, 3>(t, last + 2, top, scale, space_x, w);
  add_pixel<kGuide, kInput, kL1, 3, 3>(t, last + 3, top, scale, space_x, w);
}

template <int kGuide, int kInput>
__device__ __forceinline__ void store_windows(const BilateralParams& p, int64_t n, int64_t y, int64_t x,
                                              const Windows<kGuide, kInput>& w) {
  with_pixels<float>(p.output.dtype, [&](auto storage) {
    using Storage = decltype(storage);
#pragma unroll
    for (int k = 0; k < kOutputs; ++k) {
      if (y + k >= p.output.size[2]) break;
      Storage* to = static_cast<Storage*>(p.output.data) + pixel_offset(p.output, n, 0, y + k, x);
#pragma unroll
      for (int c = 0; c < PixelLayout<kGuide, kInput>::kChannels; ++c)
        to[c * p.output.stride[1]] = FromAcc<Storage>::convert(w.sums[k][c] / w.totals[k]);
    }
  });
}

template <int kGuide, int kInput, bool kL1>
__global__ void __launch_bounds__(kThreads, 2)
    bilateral_tile_kernel(BilateralParams p, int64_t tiles_x, int64_t tiles_y, int64_t tiles) {
  const Tile t = tile_arrays<PixelLayout<kGuide, kInput>>(p);
  const int thread = static_cast<int>(threadIdx.y * kCols + threadIdx.x);
  const int radius_y = static_cast<int>(p.kernel_size[0] / 2),
            radius_x = static_cast<int>(p.kernel_size[1] / 2);
  // sqrt(log2 e): squared, it turns a natural logarithm into one to base 2.
  constexpr float kRootLog2E = 1.2011224087864498f;
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const int64_t n = tile / (tiles_x * tiles_y);
    const int64_t y0 = tile / tiles_x % tiles_y * kRows, x0 = tile % tiles_x * kCols;
    const BilateralScales<float> scales = bilateral_scales<float>(p, n);
    const float scale = fminf(scales.color * kRootLog2E, static_cast<float>(LargestOf<float>::value));
    __syncthreads();  // the last tile is no longer read
    make_tables(p, t, y0, x0, scales, thread);
    __syncthreads();
    load_tile<kGuide, kInput>(p, t, n);
    __syncthreads();
    const int row = static_cast<int>(threadIdx.y) * kOutputs, col = static_cast<int>(threadIdx.x);
    const int64_t y = y0 + row, x = x0 + col;
    if (y >= p.output.size[2] || x >= p.output.size[3]) continue;
    Windows<kGuide, kInput> w{};
#pragma unroll
    for (int k = 0; k < kOutputs; ++k) {
      float v[kGuide + kInput];
      read_pixel<kGuide, kInput>(t, (row + k + radius_y) * t.cols + col + radius_x, v);
#pragma unroll
      for (int c = 0; c < kGuide; ++c) w.centre[k][c] = v[c];
    }
#pragma unroll 1
    for (int dx = 0; dx <= 2 * radius_x; ++dx)
      add_column<kGuide, kInput, kL1>(t, radius_y, t.extent[dx], row * t.cols + col + dx, scale,
                                      t.space_x[dx], w);
    store_windows(p, n, y, x, w);
  }
}

// Calls f with the layout and kernel for these channels; false where there is none.
template <class F>
bool with_kernel(const BilateralParams& p, const F& f) {
  const bool l1 = p.distance == ColorDistance::kL1;
  bool same = p.input.data == p.guidance.data;  // a view of some channels begins where the whole does
  for (int i = 0; i < 4; ++i)
    same = same && p.input.size[i] == p.guidance.size[i] && p.input.stride[i] == p.guidance.stride[i];
  const int64_t guide = p.guidance.size[1], input = same ? 0 : p.input.size[1];
  if (guide == 1 && input == 0) return f(PixelLayout<1, 0>{}, bilateral_tile_kernel<1, 0, false>), true;
  if (guide == 1 && input == 1) return f(PixelLayout<1, 1>{}, bilateral_tile_kernel<1, 1, false>), true;
  if (guide == 3 && input == 0)
    return f(PixelLayout<3, 0>{},
             l1 ? bilateral_tile_kernel<3, 0, true> : bilateral_tile_kernel<3, 0, false>),
           true;
  if (guide == 3 && input == 1)
    return f(PixelLayout<3, 1>{},
             l1 ? bilateral_tile_kernel<3, 1, true> : bilateral_tile_kernel<3, 1, false>),
           true;
  if (guide == 3 && input == 3)
    return f(PixelLayout<3, 3>{},
             l1 ? bilateral_tile_kernel<3, 3, true> : bilateral_tile_kernel<3, 3, false>),
           true;
  if (guide == 4 && input == 0)
    return f(PixelLayout<4, 0>{},
             l1 ? bilateral_tile_kernel<4, 0, true> : bilateral_tile_kernel<4, 0, false>),
           true;
  return false;
}

}  // namespace

const char* bilateral_tile_cannot_run(const BilateralParams& params, const DeviceLimits& limits) {
  constexpr int64_t kLargest = 1 << 12;  // far beyond what fits; keeps products of sizes in int
  if (params.input.dtype == DType::kFloat64) return "float64 is not compiled into it";
  if (params.kernel_size[0] > kLargest || params.kernel_size[1] > kLargest)
    return "the tile with so large a window around it does not fit a block's shared memory";
  const char* reason = "it is compiled for 1, 3 or 4 channels, guided by themselves, 1 by 1, and 1 or 3 by 3";
  with_kernel(params, [&](auto layout, auto) {
    reason = static_cast<int64_t>(tile_bytes<decltype(layout)>(params)) <= limits.shared_bytes
                 ? nullptr
                 : "the tile with so large a window around it does not fit a block's shared memory";
  });
  return reason;
}

int bilateral_tile_launch(const BilateralParams& params, const LaunchContext& context) {
  const int64_t tiles_x = (params.input.size[3] + kCols - 1) / kCols;
  const int64_t tiles_y = (params.input.size[2] + kRows - 1) / kRows;
  const int64_t tiles = params.input.size[0] * tiles_x * tiles_y, most = 1 << 30;
  int code = static_cast<int>(cudaErrorInvalidValue);
  with_kernel(params, [&](auto layout, auto kernel) {
    code = launch(kernel, dim3(static_cast<unsigned>(tiles < most ? tiles : most)), dim3(kCols, kThreadRows),
                  tile_bytes<decltype(layout)>(params), context.stream, params, tiles_x, tiles_y, tiles);
  });
  return code;
}

}  // namespace denoise_ext::cuda
