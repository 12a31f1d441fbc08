// The weight gradient as one matrix product over pixels, for any geometry and layout:
//   sums[coarse channel][column] += coarse[pixel][coarse channel] fine[pixel moved by the tap][fine channel]
// A column is a pair of a tap and a fine channel of the group, the channels of a tap beside each other. A
// block holds a tile of the sums in registers and walks over its part of the pixels. A piece of both
// factors is in shared memory, as [pixel][channel or column]; the next one is on its way in registers. What
// multiplies the pieces is the kernel's own: conv_weight_grad_gemm.cu on tensor cores,
// conv_weight_grad_tiled.cu with ordinary arithmetic.
//
// Vectors of 16 bytes are read at once where channels lie so, else element by element. The mask of an
// activation's gradient comes in registers too and is applied on the way to shared memory. There the bias'
// gradient is added up, by the blocks of a group's first columns.
#pragma once

#include "conv_weight_grad.cuh"
#include "conv_weight_grad_variants.h"
#include "vectors.cuh"

namespace denoise_ext::cuda {

constexpr int kGatherThreads = 256;

// Coarse channels x columns of a block, and how many pixels are in shared memory at a time.
template <class StorageType, int kTileRows, int kTileCols, int kTilePixels>
struct GatherTile {
  using Storage = StorageType;
  using Acc = typename AccOf<Storage>::type;
  static constexpr int kRows = kTileRows, kCols = kTileCols, kPixels = kTilePixels;
  static constexpr int kLanes = kVectorLanes<Storage>;
  // Elements from pixel to pixel. With 8 more than a power of 2, the 8 pixels that an ldmatrix reads lie in
  // different banks, and so do the 4 pixels x 8 channels of a tf32 fragment.
  static constexpr int kRowPitch = kRows + 8, kColPitch = kCols + 8;
  static constexpr int kRowVectors = kPixels * kRows / kLanes, kColVectors = kPixels * kCols / kLanes;
  static constexpr int kColEach = kColVectors / kGatherThreads;  // per thread; of the rows one or none
  static_assert(kRowVectors <= kGatherThreads && kColVectors % kGatherThreads == 0 &&
                kPixels <= kGatherThreads && kRows % kLanes == 0);
};

// Where a pixel's elements are, in elements from the tensors' first ones, and the first tap's row and column.
struct GatherPixel {
  int64_t coarse, fine;
  uint32_t y, x;
};
// Where a column's elements are, from a pixel's.
struct alignas(16) GatherColumn {
  int64_t offset;
  uint32_t dy, dx;
};
// Rows of pixels and columns that do not exist: no sum with the other's is inside an image of at most 2^30
// rows (kLargestExtent; y is from -2^30 to 2^30, dy from 0 to 2^30), also none of the two.
constexpr uint32_t kNoPixel = 0xC0000000u, kNoColumn = 0x80000000u;

struct GatherBlock {
  int64_t group, row, col;  // the tile's first coarse channel and column, in the group
  int64_t begin, end;       // pixels
};

template <class Tile>
__device__ __forceinline__ GatherBlock gather_block(const ConvWeightGradParams& p, int parts) {
  const int64_t cols = p.grad_weight.size[1] * p.grad_weight.size[2] * p.grad_weight.size[3];
  const int64_t col_tiles = (cols + Tile::kCols - 1) / Tile::kCols;
  const int64_t row_tiles = (p.coarse.size[1] / p.groups + Tile::kRows - 1) / Tile::kRows;
  const int64_t pixels = p.coarse.size[0] * p.coarse.size[2] * p.coarse.size[3];
  const int64_t at = blockIdx.x;
  return {at / (col_tiles * row_tiles), at / col_tiles % row_tiles * Tile::kRows,
          at % col_tiles * Tile::kCols, pixels * blockIdx.y / parts, pixels * (blockIdx.y + 1) / parts};
}

// A vector whose elements are at(0), at(1), ...; 0 where that is nullptr.
template <class Storage, class At>
__device__ __forceinline__ uint4 gather_elements(const At& at) {
  uint32_t word[4] = {0, 0, 0, 0};
#pragma unroll
  for (int i = 0; i < kVectorLanes<Storage>; ++i) {
    const Storage* const from = at(i);
    if (from == nullptr) continue;
    if constexpr (sizeof(Storage) == 8) {
      const uint2 both = *reinterpret_cast<const uint2*>(from);
      word[2 * i] = both.x;
      word[2 * i + 1] = both.y;
    } else if constexpr (sizeof(Storage) == 4) {
      word[i] = *reinterpret_cast<const uint32_t*>(from);
    } else {
      word[i / 2] |= static_cast<uint32_t>(*reinterpret_cast<const uint16_t*>(from)) << (16 * (i % 2));
    }
  }
  return uint4{word[0], word[1], word[2], word[3]};
}

// The elements of a vector as numbers. Not in vectors.cuh, whose sums are in float.
template <class Storage>
__device__ __forceinline__ void gathered_values(const uint4& vector,
                                                typename AccOf<Storage>::type (&x)[kVectorLanes<Storage>]) {
  if constexpr (sizeof(Storage) == 8) {
    x[0] = __longlong_as_double(static_cast<long long>(uint64_t{vector.y} << 32 | vector.x));
    x[1] = __longlong_as_double(static_cast<long long>(uint64_t{vector.w} << 32 | vector.z));
  } else {
    unpack<Storage>(vector, x);
  }
}

// The elements of g through the mask of an activation's gradient.
template <class Storage>
__device__ __forceinline__ uint4 gathered_mask(const uint4& g, const uint4& saved, double slope) {
  if constexpr (sizeof(Storage) == 8) {
    double x[2], y[2];
    gathered_values<Storage>(g, x);
    gathered_values<Storage>(saved, y);
    uint32_t word[4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const auto bits = static_cast<uint64_t>(__double_as_longlong(masked(x[i], y[i], slope)));
      word[2 * i] = static_cast<uint32_t>(bits);
      word[2 * i + 1] = static_cast<uint32_t>(bits >> 32);
    }
    return uint4{word[0], word[1], word[2], word[3]};
  } else {
    return apply_mask<Storage>(g, saved, static_cast<float>(slope));
  }
}

// A thread's share of a piece.
template <class Tile>
struct GatherVectors {
  uint4 coarse, mask, fine[Tile::kColEach];
};

// The shared memory of a block and what its threads do with it.
template <class TileType>
class Gather {
 public:
  using Tile = TileType;
  using Storage = typename Tile::Storage;
  using Acc = typename Tile::Acc;

  static constexpr size_t shared_bytes() {
    return SharedArena::bytes<Storage>(2 * Tile::kPixels * Tile::kRowPitch) +
           SharedArena::bytes<Storage>(2 * Tile::kPixels * Tile::kColPitch) +
           SharedArena::bytes<GatherPixel>(2 * Tile::kPixels) + SharedArena::bytes<GatherColumn>(Tile::kCols);
  }

  __device__ __forceinline__ Gather(const ConvWeightGradParams& p, const WeightGradLayout& layout,
                                    const GatherBlock& block)
      : p_(p), layout_(layout), block_(block) {
    SharedArena arena;
    coarse_ = arena.take<Storage>(2 * Tile::kPixels * Tile::kRowPitch);
    fine_ = arena.take<Storage>(2 * Tile::kPixels * Tile::kColPitch);
    pixels_ = arena.take<GatherPixel>(2 * Tile::kPixels);
    columns_ = arena.take<GatherColumn>(Tile::kCols);
  }

  // Calls multiply(coarse, fine) for every piece of the block's pixels, with a piece's elements as
  // [kPixels][kRowPitch] and [kPixels][kColPitch]; as_factors(vector) is what it takes of them.
  template <class AsFactors, class Multiply>
  __device__ __forceinline__ void walk(const AsFactors& as_factors, const Multiply& multiply) {
    write_columns();
    const int64_t slot = static_cast<int64_t>(threadIdx.x);
    PixelWalk walk(p_.coarse.size[2], p_.coarse.size[3], block_.begin + (slot < Tile::kPixels ? slot : 0),
                   Tile::kPixels);
    write_pixels(walk, block_.begin, 0);
    __syncthreads();
    GatherVectors<Tile> vectors;
    load(vectors, 0);
    int stage = 0;
    for (int64_t first = block_.begin; first < block_.end; first += Tile::kPixels) {
      store(vectors, as_factors, stage);
      if (with_bias()) add_bias(vectors.coarse);
      walk.advance();
      write_pixels(walk, first + Tile::kPixels, 1 - stage);
      // The piece of this stage is there, and what was read of the other one has been.
      __syncthreads();
      if (first + Tile::kPixels < block_.end) load(vectors, 1 - stage);
      multiply(coarse_ + stage * Tile::kPixels * Tile::kRowPitch,
               fine_ + stage * Tile::kPixels * Tile::kColPitch);
      stage = 1 - stage;
    }
    __syncthreads();  // the kernel may use scratch() now
  }

  // What is free after walk(), and how much.
  __device__ __forceinline__ Acc* scratch() { return reinterpret_cast<Acc*>(fine_); }
  static constexpr int kScratch =
      2 * Tile::kPixels * Tile::kColPitch * static_cast<int>(sizeof(Storage)) / static_cast<int>(sizeof(Acc));

  // Adds the threads' sums of the bias' gradient and writes them, after walk(); a barrier must precede
  // another use of scratch().
  __device__ __forceinline__ void store_bias(Acc* partial) {
    if (!with_bias()) return;
    static_assert(kGatherThreads * Tile::kLanes <= kScratch);
    const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
    for (int i = 0; i < Tile::kLanes; ++i) scratch()[thread * Tile::kLanes + i] = bias_[i];
    __syncthreads();
    const int64_t row = block_.row + thread, group_rows = p_.coarse.size[1] / p_.groups;
    if (thread >= Tile::kRows || row >= group_rows) return;
    Acc sum = 0;
    for (int pixel = 0; pixel < Tile::kPixels; ++pixel) {
      const int owner = layout_.coarse_along_pixels
                            ? thread / Tile::kLanes * Tile::kPixels + pixel
                            : pixel * (Tile::kRows / Tile::kLanes) + thread / Tile::kLanes;
      sum += scratch()[owner * Tile::kLanes + thread % Tile::kLanes];
    }
    partial[weight_count(p_) + block_.group * group_rows + row] = sum;
  }

  // partial[row][col] of the block's tile, where there is one.
  __device__ __forceinline__ void store_sum(Acc* partial, int row, int col, Acc sum) const {
    const int64_t fine = p_.grad_weight.size[1], taps = p_.grad_weight.size[2] * p_.grad_weight.size[3];
    const int64_t group_rows = p_.coarse.size[1] / p_.groups;
    const int64_t k = block_.row + row, column = block_.col + col;
    if (k >= group_rows || column >= fine * taps) return;
    // At most 2^31 weights (kMostWeights).
    const uint32_t c = static_cast<uint32_t>(column) % static_cast<uint32_t>(fine);
    const uint32_t tap = static_cast<uint32_t>(column) / static_cast<uint32_t>(fine);
    partial[((block_.group * group_rows + k) * fine + c) * taps + tap] = sum;
  }

 private:
  __device__ __forceinline__ bool with_bias() const { return p_.grad_bias != nullptr && block_.col == 0; }

  __device__ __forceinline__ void write_columns() {
    const int64_t fine = p_.grad_weight.size[1], kw = p_.grad_weight.size[3];
    const int64_t count = fine * p_.grad_weight.size[2] * kw;
    for (int i = static_cast<int>(threadIdx.x); i < Tile::kCols; i += kGatherThreads) {
      const int64_t column = block_.col + i, c = column % fine, tap = column / fine;
      const int64_t dy = tap / kw * p_.dilation[0], dx = tap % kw * p_.dilation[1];
      columns_[i] =
          GatherColumn{c * p_.fine.stride[1] + dy * p_.fine.stride[2] + dx * p_.fine.stride[3],
                       column < count ? static_cast<uint32_t>(dy) : kNoColumn, static_cast<uint32_t>(dx)};
    }
  }

  // Pixels first, first + 1, ...; `walk` is at the thread's own.
  __device__ __forceinline__ void write_pixels(const PixelWalk& walk, int64_t first, int stage) {
    const int slot = static_cast<int>(threadIdx.x);
    if (slot >= Tile::kPixels) return;
    const int64_t y = int64_t{walk.y} * p_.stride[0] - p_.padding[0];
    const int64_t x = int64_t{walk.x} * p_.stride[1] - p_.padding[1];
    const Tensor4 &coarse = p_.coarse, &fine = p_.fine;
    pixels_[stage * Tile::kPixels + slot] = GatherPixel{
        walk.n * coarse.stride[0] + walk.y * coarse.stride[2] + walk.x * coarse.stride[3],
        walk.n * fine.stride[0] + y * fine.stride[2] + x * fine.stride[3],
        first + slot < block_.end ? static_cast<uint32_t>(y) : kNoPixel, static_cast<uint32_t>(x)};
  }

  // Which vector of which pixel is the thread's number j: neighbouring threads take neighbouring memory.
  template <int kVectors>
  static __device__ __forceinline__ void place(int j, bool along_pixels, int& pixel, int& vector) {
    const int i = static_cast<int>(threadIdx.x) + j * kGatherThreads;
    pixel = along_pixels ? i % Tile::kPixels : i / kVectors;
    vector = along_pixels ? i / Tile::kPixels : i % kVectors;
  }

  __device__ __forceinline__ uint4 load_coarse(const void* data, const GatherPixel& pixel,
                                               int64_t row) const {
    const int64_t group_rows = p_.coarse.size[1] / p_.groups;
    const int64_t stride = p_.coarse.stride[1];
    const Storage* const from =
        static_cast<const Storage*>(data) + pixel.coarse + (block_.group * group_rows + row) * stride;
    const bool there = pixel.y != kNoPixel;
    if (layout_.coarse_vectors)
      return there && row < group_rows ? __ldg(reinterpret_cast<const uint4*>(from)) : uint4{0, 0, 0, 0};
    return gather_elements<Storage>(
        [&](int i) { return there && row + i < group_rows ? from + i * stride : nullptr; });
  }

  __device__ __forceinline__ uint4 load_fine(const GatherPixel& pixel, int column) const {
    const Storage* const from = static_cast<const Storage*>(p_.fine.data) + pixel.fine +
                                block_.group * p_.grad_weight.size[1] * p_.fine.stride[1];
    const uint32_t rows = static_cast<uint32_t>(p_.fine.size[2]),
                   cols = static_cast<uint32_t>(p_.fine.size[3]);
    const auto at = [&](int i) -> const Storage* {
      const GatherColumn tap = columns_[column + i];
      return pixel.y + tap.dy < rows && pixel.x + tap.dx < cols ? from + tap.offset : nullptr;
    };
    if (!layout_.fine_vectors) return gather_elements<Storage>(at);
    const Storage* const vector = at(0);
    return vector != nullptr ? __ldg(reinterpret_cast<const uint4*>(vector)) : uint4{0, 0, 0, 0};
  }

  __device__ __forceinline__ void load(GatherVectors<Tile>& vectors, int stage) const {
    const GatherPixel* const pixels = pixels_ + stage * Tile::kPixels;
    int pixel = 0, vector = 0;
    if (static_cast<int>(threadIdx.x) < Tile::kRowVectors) {
      place<Tile::kRows / Tile::kLanes>(0, layout_.coarse_along_pixels, pixel, vector);
      const int64_t row = block_.row + vector * Tile::kLanes;
      vectors.coarse = load_coarse(p_.coarse.data, pixels[pixel], row);
      // The mask lies like what it masks.
      if (p_.coarse_mask.saved.data != nullptr)
        vectors.mask = load_coarse(p_.coarse_mask.saved.data, pixels[pixel], row);
    }
#pragma unroll
    for (int j = 0; j < Tile::kColEach; ++j) {
      place<Tile::kCols / Tile::kLanes>(j, layout_.fine_along_pixels, pixel, vector);
      vectors.fine[j] = load_fine(pixels[pixel], vector * Tile::kLanes);
    }
  }

  template <class AsFactors>
  __device__ __forceinline__ void store(GatherVectors<Tile>& vectors, const AsFactors& as_factors,
                                        int stage) {
    int pixel = 0, vector = 0;
    if (static_cast<int>(threadIdx.x) < Tile::kRowVectors) {
      place<Tile::kRows / Tile::kLanes>(0, layout_.coarse_along_pixels, pixel, vector);
      if (p_.coarse_mask.saved.data != nullptr)
        vectors.coarse = gathered_mask<Storage>(vectors.coarse, vectors.mask, p_.coarse_mask.slope);
      Storage* const to = coarse_ + (stage * Tile::kPixels + pixel) * Tile::kRowPitch + vector * Tile::kLanes;
      *reinterpret_cast<uint4*>(to) = as_factors(vectors.coarse);
    }
#pragma unroll
    for (int j = 0; j < Tile::kColEach; ++j) {
      place<Tile::kCols / Tile::kLanes>(j, layout_.fine_along_pixels, pixel, vector);
      Storage* const to = fine_ + (stage * Tile::kPixels + pixel) * Tile::kColPitch + vector * Tile::kLanes;
      *reinterpret_cast<uint4*>(to) = as_factors(vectors.fine[j]);
    }
  }

  __device__ __forceinline__ void add_bias(const uint4& coarse) {
    if (static_cast<int>(threadIdx.x) >= Tile::kRowVectors) return;
    Acc x[Tile::kLanes];
    gathered_values<Storage>(coarse, x);
#pragma unroll
    for (int i = 0; i < Tile::kLanes; ++i) bias_[i] += x[i];
  }

  const ConvWeightGradParams& p_;
  const WeightGradLayout& layout_;
  const GatherBlock& block_;
  Storage *coarse_, *fine_;
  GatherPixel* pixels_;
  GatherColumn* columns_;
  Acc bias_[Tile::kLanes] = {};
};

}  // namespace denoise_ext::cuda
