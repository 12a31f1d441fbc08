// The separable Gaussian in one pass over the image: a block takes a tile of columns and a strip of rows,
// filters each row horizontally into a ring in shared memory and sums the ring vertically.
//
// A step is kStepRows rows: load (border applied), filter horizontally into the ring, emit the rows whose
// window is complete. A thread filters kRows rows of four neighbouring pixels of one channel, then emits
// kRows rows of them: each value read from the ring serves kRows outputs, each tap 4 kRows products.
//
// Shared memory (float, radius 6, one channel): ring 28 x 256, lines 16 x 268, taps: 46 KiB. Registers:
// 16 sums, 4 values, 7 taps, and addresses: at most 128 per thread, two blocks of 256 threads.
#pragma once

#include "../params/arithmetic.h"
#include "gaussian.cuh"

namespace denoise_ext::cuda {

constexpr int kRows = 4, kThreadRows = 4, kStepRows = kRows * kThreadRows;
// Four pixels of a channel each; times kThreadRows threads in a block.
constexpr int kMostGroups = 64;
// Interleaved channels that a tile takes at once, planar in shared memory.
constexpr int kMostSlice = 8;
// Rows of a column that a thread asks for at a time.
constexpr int kLoads = 8;
constexpr int64_t kNoRow = INT64_MIN;
// Blocks per multiprocessor to leave registers for.
template <class Acc>
constexpr int kRegisterBlocks = sizeof(Acc) == 4 ? 2 : 1;

// The adjoint is the filter with tables.
enum class GaussianMode { kFilter, kSigmaGradient };

struct GaussianRing {
  Tensor4 input;   // (N, C, H, W); adjoint: the gradient of the blurred image
  Tensor4 output;  // result; sigma gradient: the gradient of the blurred image
  Tensor1 sigma;
  double sigma_row[2];
  GaussianTables tables;  // without taps: each block makes its own
  double* partials;       // sigma gradient: [axis][task]
  Border border;
  GaussianMode mode;
  int radius[2];
  int slice, groups;  // channels of a tile; four-pixel groups of a channel
  int pitch;          // of a line in shared memory: 4 groups + 2 radius, rounded up to 4
  int strip_rows;     // a multiple of kStepRows
  int slices, strips, tiles;
  bool staged;  // results go through shared memory, to be stored as channels lie in memory

  __host__ __device__ int columns() const { return 4 * groups; }
  __host__ __device__ int ring_rows() const { return 2 * radius[0] + kStepRows; }
  __host__ __device__ int padded_taps(int axis) const { return (2 * radius[axis] + 8) / 4 * 4; }
  __host__ __device__ int scratch() const {
    return static_cast<int>(taps_scratch(radius[0]) + taps_scratch(radius[1]));
  }
  __host__ __device__ int threads() const { return groups * slice * kThreadRows; }
  __host__ __device__ int64_t tasks() const {
    return input.size[0] * static_cast<int64_t>(slices) * strips * tiles;
  }
};

// One block's share and its arrays in shared memory.
template <class Acc>
struct GaussianStrip {
  int64_t n, channel, x0, y0, sigma_row;
  int channels, columns, rows;  // that exist
  Acc* lines;                   // [kStepRows][slice][pitch]; staged results: [kStepRows][columns * slice]
  Acc* ring;                    // [ring_rows][slice][4 groups]
  Acc* taps[2];                 // [padded_taps]
  int64_t* row_offsets;         // [kStepRows]: of the rows that lines get, in elements, or kNoRow
  int* source;                  // [pitch]: the column that each position of a line is read from, or -1
  double* scratch;              // [scratch()] for taps, or one per thread
};

template <class Acc>
__host__ __device__ size_t gaussian_ring_bytes(const GaussianRing& p) {
  const size_t doubles = static_cast<size_t>(p.scratch() > p.threads() ? p.scratch() : p.threads());
  return SharedArena::bytes<Acc>(static_cast<size_t>(kStepRows) * p.slice * p.pitch) +
         SharedArena::bytes<Acc>(static_cast<size_t>(p.ring_rows()) * p.slice * p.columns()) +
         SharedArena::bytes<Acc>(p.padded_taps(0)) + SharedArena::bytes<Acc>(p.padded_taps(1)) +
         SharedArena::bytes<int64_t>(kStepRows) + SharedArena::bytes<int>(p.pitch) +
         SharedArena::bytes<double>(doubles);
}

template <class Acc>
__device__ __forceinline__ GaussianStrip<Acc> gaussian_arrays(const GaussianRing& p) {
  GaussianStrip<Acc> s{};
  SharedArena arena;
  const size_t doubles = static_cast<size_t>(p.scratch() > p.threads() ? p.scratch() : p.threads());
  s.lines = arena.take<Acc>(static_cast<size_t>(kStepRows) * p.slice * p.pitch);
  s.ring = arena.take<Acc>(static_cast<size_t>(p.ring_rows()) * p.slice * p.columns());
  s.taps[0] = arena.take<Acc>(p.padded_taps(0));
  s.taps[1] = arena.take<Acc>(p.padded_taps(1));
  s.row_offsets = arena.take<int64_t>(kStepRows);
  s.source = arena.take<int>(p.pitch);
  s.scratch = arena.take<double>(doubles);
  return s;
}

template <class Acc>
__device__ __forceinline__ void place_strip(const GaussianRing& p, int64_t task, GaussianStrip<Acc>& s) {
  const int64_t tile = task % p.tiles, strip = task / p.tiles % p.strips;
  const int64_t slice = task / p.tiles / p.strips % p.slices;
  s.n = task / p.tiles / p.strips / p.slices;
  s.channel = slice * p.slice;
  s.x0 = tile * p.columns();
  s.y0 = strip * p.strip_rows;
  const int64_t channels = p.input.size[1] - s.channel, columns = p.input.size[3] - s.x0;
  const int64_t rows = p.input.size[2] - s.y0;
  s.channels = channels < p.slice ? static_cast<int>(channels) : p.slice;
  s.columns = columns < p.columns() ? static_cast<int>(columns) : p.columns();
  s.rows = rows < p.strip_rows ? static_cast<int>(rows) : p.strip_rows;
  s.sigma_row = p.sigma.data == nullptr || p.sigma.size == 2 ? 0 : s.n;
}

// Taps and source columns of the strip, by all threads; a barrier must follow. derivative: the axis
// whose taps are to be the derivative, or -1.
template <class Acc>
__device__ __forceinline__ void prepare_strip(const GaussianRing& p, int derivative,
                                              const GaussianStrip<Acc>& s, int thread) {
  const int threads = p.threads();
  for (int i = thread; i < p.pitch; i += threads) {
    const int64_t x = s.x0 - p.radius[1] + i;
    s.source[i] =
        i < s.columns + 2 * p.radius[1] ? static_cast<int>(border_index(x, p.input.size[3], p.border)) : -1;
  }
  if (p.tables.taps[0] == nullptr) {
    const Taps kind = p.input.dtype == DType::kUInt8 ? Taps::kFixedPoint : Taps::kGaussian;
    // Half of the threads for each axis.
    const bool along_y = thread < threads / 2;
    const AxisTaps<Acc> axis{along_y ? sigma_value(p.sigma, p.sigma_row[0], 2 * s.sigma_row)
                                     : sigma_value(p.sigma, p.sigma_row[1], 2 * s.sigma_row + 1),
                             along_y ? p.radius[0] : p.radius[1],
                             along_y ? p.padded_taps(0) : p.padded_taps(1),
                             kind,
                             along_y ? s.scratch : s.scratch + taps_scratch(p.radius[0]),
                             along_y ? s.taps[0] : s.taps[1]};
    make_taps(axis, along_y ? thread : thread - threads / 2, threads / 2);
    return;
  }
#pragma unroll
  for (int axis = 0; axis < 2; ++axis) {
    const int size = 2 * p.radius[axis] + 1;
    const Acc* table =
        static_cast<const Acc*>(derivative == axis ? p.tables.derivative[axis] : p.tables.taps[axis]) +
        s.sigma_row * size;
    for (int i = thread; i < p.padded_taps(axis); i += threads)
      s.taps[axis][i] = i < size ? table[i] : Acc(0);
  }
}

// Where rows first .. first + kStepRows - 1 of the strip with its radius (row 0: y0 - radius) are read, the
// border applied. By all threads; a barrier must follow.
template <class Acc>
__device__ __forceinline__ void prepare_rows(const GaussianRing& p, const GaussianStrip<Acc>& s, int first,
                                             int thread) {
  const int last = s.rows + 2 * p.radius[0];
#pragma unroll 1
  for (int i = thread; i < kStepRows; i += p.threads()) {
    const int r = first + i;
    const int64_t y =
        r >= 0 && r < last ? border_index(s.y0 - p.radius[0] + r, p.input.size[2], p.border) : -1;
    s.row_offsets[i] = y < 0 ? kNoRow : y * p.input.stride[2];
  }
}

// Those rows into lines. Neighbouring threads take what lies side by side in memory; a thread asks for
// kLoads rows of its column before it stores the first, for each takes as long to come as all of them.
template <class Acc>
__device__ __forceinline__ void load_lines(const GaussianRing& p, const GaussianStrip<Acc>& s, int thread) {
  const int width = p.slice * p.pitch;
  with_pixels<Acc>(p.input.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    const Storage* image =
        static_cast<const Storage*>(p.input.data) + s.n * p.input.stride[0] + s.channel * p.input.stride[1];
#pragma unroll 1
    for (int i = thread; i < width; i += p.threads()) {
      const int x = p.slice == 1 ? i : i / p.slice, c = p.slice == 1 ? 0 : i - x * p.slice;
      const int column = s.source[x];
      const bool inside = column >= 0 && c < s.channels;
      const Storage* from = image + (inside ? column * p.input.stride[3] + c * p.input.stride[1] : 0);
      Acc* to = s.lines + c * p.pitch + x;
#pragma unroll 1
      for (int row = 0; row < kStepRows; row += kLoads) {
        Storage value[kLoads];
#pragma unroll
        for (int j = 0; j < kLoads; ++j) {
          const int64_t offset = s.row_offsets[row + j];
          value[j] = FromAcc<Storage>::convert(Acc(0));
          if (inside && offset != kNoRow) value[j] = from[offset];
        }
#pragma unroll
        for (int j = 0; j < kLoads; ++j) to[(row + j) * width] = to_acc<Acc>(value[j]);
      }
    }
  });
}

// sums[j] += taps[m - j] * v[m] for m = first .. first + 3 and j = 0 .. 3, where the tap exists. t: taps
// first - 3 .. first + 3. Guarded, so that a value next to the window never meets a tap, be it infinite.
template <bool kGuarded, class Acc>
__device__ __forceinline__ void add_products(Acc (&sums)[4], const Acc (&v)[4], const Acc (&t)[7], int first,
                                             int last) {
#pragma unroll
  for (int u = 0; u < 4; ++u)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int i = first + u - j;
      if (!kGuarded || (i >= 0 && i <= last)) sums[j] += t[3 + u - j] * v[u];
    }
}

// Moves the taps on by four.
template <class Acc>
__device__ __forceinline__ void next_taps(const Acc* taps, int first, Acc (&t)[7]) {
  Acc four[4];
  load4(taps + first, four);
#pragma unroll
  for (int i = 0; i < 3; ++i) t[i] = t[i + 4];
#pragma unroll
  for (int i = 0; i < 4; ++i) t[3 + i] = four[i];
}

// The adjoint's own taps of position `position` along an axis, or nullptr.
template <class Acc>
__device__ __forceinline__ const Acc* edge_taps(const GaussianRing& p, int axis, int64_t position,
                                                int64_t sigma_row) {
  const void* edges = axis == 0 ? p.tables.edges[0] : p.tables.edges[1];
  if (edges == nullptr) return nullptr;
  const int radius = axis == 0 ? p.radius[0] : p.radius[1];
  const int64_t extent = axis == 0 ? p.input.size[2] : p.input.size[3];
  if (position >= extent) return nullptr;
  const int64_t row = edge_row(position, extent, radius);
  if (row < 0) return nullptr;
  return static_cast<const Acc*>(edges) + (sigma_row * edge_count(extent, radius) + row) * (2 * radius + 1);
}

// Four pixels from the window of positions that starts at `line`.
template <class Acc>
__device__ __forceinline__ void filter_line(const Acc* line, const Acc* taps, int radius, Acc (&sums)[4]) {
  const int last = 2 * radius;
  Acc t[7] = {};
  for (int first = 0; first < last + 4; first += 4) {
    Acc v[4];
    load4(line + first, v);
    next_taps(taps, first, t);
    if (first > 0 && first + 3 <= last) {
      add_products<false>(sums, v, t, first, last);
    } else {
      add_products<true>(sums, v, t, first, last);
    }
  }
}

// The same with each pixel's own taps where they differ.
template <class Acc>
__device__ __forceinline__ void filter_edge_line(const GaussianRing& p, const GaussianStrip<Acc>& s,
                                                 const Acc* line, int64_t x, Acc (&sums)[4]) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const Acc* own = edge_taps<Acc>(p, 1, x + j, s.sigma_row);
    const Acc* taps = own != nullptr ? own : s.taps[1];
    for (int i = 0; i <= 2 * p.radius[1]; ++i) sums[j] += taps[i] * line[i + j];
  }
}

template <class Acc>
__device__ __forceinline__ bool has_edge(const GaussianRing& p, int axis, int64_t first) {
  if ((axis == 0 ? p.tables.edges[0] : p.tables.edges[1]) == nullptr) return false;
  bool found = false;
#pragma unroll
  for (int j = 0; j < 4; ++j) found = found || edge_taps<Acc>(p, axis, first + j, 0) != nullptr;
  return found;
}

// A thread's part of a step: which rows, and which four pixels of which channel.
struct GaussianGroup {
  int row, channel, column;
};

// Filters this thread's lines into the ring; `first` is the number of the step's first row plus `lead`.
template <class Acc>
__device__ __forceinline__ void filter_lines(const GaussianRing& p, const GaussianStrip<Acc>& s,
                                             const GaussianGroup& g, int first) {
  const int width = p.slice * p.columns();
  const bool edge = has_edge<Acc>(p, 1, s.x0 + g.column);
  int slot = (first + g.row) % p.ring_rows();
  for (int row = g.row; row < g.row + kRows; ++row) {
    const Acc* line = s.lines + (row * p.slice + g.channel) * p.pitch + g.column;
    Acc sums[4] = {};
    if (edge) {
      filter_edge_line(p, s, line, s.x0 + g.column, sums);
    } else {
      filter_line(line, s.taps[1], p.radius[1], sums);
    }
    store4(s.ring + slot * width + g.channel * p.columns() + g.column, sums);
    slot = slot + 1 < p.ring_rows() ? slot + 1 : 0;
  }
}

// kRows rows of four pixels from the ring; slot: of the first row of the first window.
template <class Acc>
__device__ __forceinline__ void sum_ring(const GaussianRing& p, const GaussianStrip<Acc>& s,
                                         const Acc* column, int slot, Acc (&sums)[kRows][4]) {
  const int last = 2 * p.radius[0], width = p.slice * p.columns();
  Acc t[7] = {};
  for (int first = 0; first < last + 4; first += 4) {
    const bool inside = first > 0 && first + 3 <= last;
    next_taps(s.taps[0], first, t);
#pragma unroll
    for (int u = 0; u < 4; ++u) {
      if (!inside && first + u > last + 3) break;
      Acc v[4];
      load4(column + slot * width, v);
      slot = slot + 1 < p.ring_rows() ? slot + 1 : 0;
#pragma unroll
      for (int j = 0; j < kRows; ++j) {
        const int i = first + u - j;
        if (!inside && (i < 0 || i > last)) continue;
#pragma unroll
        for (int x = 0; x < 4; ++x) sums[j][x] += t[3 + u - j] * v[x];
      }
    }
  }
}

template <class Acc>
__device__ __forceinline__ void sum_edge_ring(const GaussianRing& p, const GaussianStrip<Acc>& s,
                                              const Acc* column, int slot, int64_t y, Acc (&sums)[kRows][4]) {
  const int width = p.slice * p.columns();
#pragma unroll
  for (int j = 0; j < kRows; ++j) {
    const Acc* own = edge_taps<Acc>(p, 0, y + j, s.sigma_row);
    const Acc* taps = own != nullptr ? own : s.taps[0];
    int at = slot + j < p.ring_rows() ? slot + j : slot + j - p.ring_rows();
    for (int i = 0; i <= 2 * p.radius[0]; ++i) {
      Acc v[4];
      load4(column + at * width, v);
      at = at + 1 < p.ring_rows() ? at + 1 : 0;
#pragma unroll
      for (int x = 0; x < 4; ++x) sums[j][x] += taps[i] * v[x];
    }
  }
}

// ---- On the host ----

// Blocks that a multiprocessor runs at a time: as many as registers are left for, of those that its shared
// memory holds. That has 1 KiB more than a block may ask for, and every block takes 1 KiB besides its own.
template <class Acc>
int64_t resident_blocks(int64_t bytes, const DeviceLimits& limits) {
  constexpr int64_t kOwn = 1024;
  const int64_t held = (limits.shared_bytes + kOwn) / (bytes + kOwn);
  return held < kRegisterBlocks<Acc> ? held : kRegisterBlocks<Acc>;
}

// Cuts the image; false where not even narrow tiles fit shared memory.
template <class Acc>
bool plan_gaussian_ring(GaussianRing& p, const int64_t (&kernel_size)[2], const DeviceLimits& limits) {
  const bool sigma_gradient = p.mode == GaussianMode::kSigmaGradient;
  constexpr int64_t kLargest = 1 << 16;  // far beyond what fits; keeps products of sizes in int
  if (kernel_size[0] > kLargest || kernel_size[1] > kLargest) return false;
  for (int axis = 0; axis < 2; ++axis) p.radius[axis] = static_cast<int>(kernel_size[axis] / 2);
  const Tensor4& layout = sigma_gradient ? p.input : p.output;
  const int64_t channels = p.input.size[1], height = p.input.size[2], width = p.input.size[3];
  const bool interleaved = channels > 1 && layout.stride[1] == 1;
  p.slice = interleaved ? static_cast<int>(channels < kMostSlice ? channels : kMostSlice) : 1;
  p.staged = interleaved && !sigma_gradient;
  p.groups = static_cast<int>(divide_up(width, 4) < kMostGroups / p.slice ? divide_up(width, 4)
                                                                          : kMostGroups / p.slice);
  const auto bytes = [&] {
    p.pitch = 4 * p.groups + (2 * p.radius[1] + 3) / 4 * 4;
    return static_cast<int64_t>(gaussian_ring_bytes<Acc>(p));
  };
  while (bytes() > limits.shared_bytes && p.groups > 2) p.groups = (p.groups + 1) / 2;
  if (bytes() > limits.shared_bytes) return false;
  p.slices = static_cast<int>(divide_up(channels, p.slice));
  p.tiles = static_cast<int>(divide_up(width, p.columns()));
  // Enough strips to fill the device once, but each several times as high as what its neighbour filters
  // again.
  const int64_t resident = limits.multiprocessors * resident_blocks<Acc>(bytes(), limits);
  const int64_t wanted = divide_up(resident, p.input.size[0] * p.slices * p.tiles);
  int64_t rows = divide_up(height, wanted);
  const int64_t lowest = 2 * kernel_size[0] > 2 * kStepRows ? 2 * kernel_size[0] : 2 * kStepRows;
  rows = divide_up(rows > lowest ? rows : lowest, kStepRows) * kStepRows;
  p.strip_rows = static_cast<int>(rows);
  p.strips = static_cast<int>(divide_up(height, rows));
  return true;
}

// Sigma's gradient: along y the axis.
inline dim3 gaussian_ring_grid(const GaussianRing& p) {
  constexpr int64_t kMost = 1 << 30;
  return dim3(static_cast<unsigned>(p.tasks() < kMost ? p.tasks() : kMost),
              p.mode == GaussianMode::kSigmaGradient ? 2 : 1);
}

}  // namespace denoise_ext::cuda
