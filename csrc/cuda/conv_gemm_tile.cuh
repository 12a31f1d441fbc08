// The matrices of conv_gemm.h on their way into shared memory: the table of terms, the pixels of a tile, and
// the loaders of one chunk, by asynchronous copies of 16 bytes or element by element through registers.
//
// Products, a template argument of all of this, is what multiplies: its tile, the type of its factors
// (Element) and of the tensors (Storage).
#pragma once

#include "common.cuh"
#include "conv_gemm.h"
#include "factors.cuh"
#include "primitives.cuh"
#include "vectors.cuh"

namespace denoise_ext::cuda {

constexpr int kGemmVectors = kGemmRowBytes / 16;
template <class Products>
constexpr int kGemmChunk = conv_gemm_chunk(Products::kTile);

// One term of the sum. Its tap as two bits, that of its row and 16 above it that of its column.
struct GemmTerm {
  int64_t offset;  // in bytes, from the pixel's first element
  uint32_t taps;   // kGemmNoTap behind the last term
};
constexpr uint32_t kGemmNoTap = 1u << 31;

// In memory a term is 16 bytes, so that one load brings it.
__device__ __forceinline__ GemmTerm load_term(const uint4* terms, int k) {
  const uint4 term = __ldg(terms + k);
  return {static_cast<int64_t>(uint64_t{term.y} << 32 | term.x), term.z};
}
__device__ __forceinline__ uint4 term_in_memory(const GemmTerm& term) {
  const auto offset = static_cast<uint64_t>(term.offset);
  return uint4{static_cast<uint32_t>(offset), static_cast<uint32_t>(offset >> 32), term.taps, 0};
}

// One output pixel of a tile.
struct alignas(16) GemmPixel {
  int64_t offset;  // of the element that tap (0, 0) and channel 0 read, in bytes; may be outside the image
  uint32_t taps;   // whose row, and whose column, is inside the image
  int image, y, x;
};

// Where vector v of row i of a chunk lies, in bytes. Any 8 consecutive rows at the same v are in 8 different
// 16-byte bank groups.
__device__ __forceinline__ constexpr int gemm_offset(int i, int v) {
  return i * kGemmRowBytes + ((v ^ (i / 2 % 4)) * 16);
}

// The bits of one axis: of the taps that read inside an image of `size`, from `source` on.
__device__ __forceinline__ uint32_t inside_taps(int taps, int source, int step, int64_t size) {
  uint32_t bits = 0;
  for (int t = 0; t < taps; ++t) {
    const int at = source + t * step;
    if (at >= 0 && at < size) bits |= 1u << t;
  }
  return bits;
}

// The pixels first, first + 1, ... of a phase, by all threads; a barrier must follow.
template <class Products>
__device__ __forceinline__ void find_pixels(const ConvParams& p, const ConvGemmPlan& plan,
                                            const ConvGemmPhase& rows, const ConvGemmPhase& cols,
                                            int64_t first, GemmPixel* pixels) {
  const int64_t plane = int64_t{rows.count} * cols.count, count = p.output.size[0] * plane;
  for (int i = static_cast<int>(threadIdx.x); i < Products::kTile.pixels; i += Products::kTile.threads) {
    const int64_t q = first + i;
    GemmPixel& pixel = pixels[i];
    if (q >= count) {
      pixel.offset = 0;
      pixel.taps = 0;
      pixel.image = -1;
      continue;
    }
    const int64_t image = q / plane, in_plane = q % plane;
    const int row = static_cast<int>(in_plane / cols.count), col = static_cast<int>(in_plane % cols.count);
    const int y = rows.base + row * plan.axis[0].input_step, x = cols.base + col * plan.axis[1].input_step;
    pixel.offset = (image * p.input.stride[0] + y * p.input.stride[2] + x * p.input.stride[3]) *
                   static_cast<int64_t>(sizeof(typename Products::Storage));
    pixel.taps = inside_taps(rows.taps, y, plan.axis[0].input_tap_step, p.input.size[2]) |
                 inside_taps(cols.taps, x, plan.axis[1].input_tap_step, p.input.size[3]) << 16;
    pixel.image = static_cast<int>(image);
    pixel.y = rows.first + row * plan.axis[0].output_step;
    pixel.x = cols.first + col * plan.axis[1].output_step;
  }
}

__device__ __forceinline__ bool reads_inside(uint32_t pixel_taps, uint32_t term_taps) {
  return (term_taps & ~pixel_taps) == 0;
}

// Asks for one chunk of the pixels: 16 bytes at a time. `input` points to the group's first channel.
template <class Products>
__device__ __forceinline__ void copy_pixels(const unsigned char* input, const GemmPixel* pixels,
                                            const uint4* terms, unsigned char* to) {
  constexpr int kStep = Products::kTile.threads / kGemmVectors;
  const int vector = static_cast<int>(threadIdx.x) % kGemmVectors;
  const int first = static_cast<int>(threadIdx.x) / kGemmVectors;
  const GemmTerm term = load_term(terms, vector * kVectorLanes<typename Products::Storage>);
#pragma unroll
  for (int i = 0; i < Products::kTile.pixels / kStep; ++i) {
    const int row = first + i * kStep;
    const bool inside = reads_inside(pixels[row].taps, term.taps);
    cp_async16(to + gemm_offset(row, vector), inside ? input + (pixels[row].offset + term.offset) : input,
               inside);
  }
}

// Rounds to tf32 the vectors that this thread has copied, once they have arrived; a barrier must follow.
template <class Products>
__device__ __forceinline__ void round_pixels(unsigned char* to) {
  constexpr int kStep = Products::kTile.threads / kGemmVectors;
  const int vector = static_cast<int>(threadIdx.x) % kGemmVectors;
  const int first = static_cast<int>(threadIdx.x) / kGemmVectors;
#pragma unroll
  for (int i = 0; i < Products::kTile.pixels / kStep; ++i) {
    uint4* const at = reinterpret_cast<uint4*>(to + gemm_offset(first + i * kStep, vector));
    *at = as_factors<typename Products::Storage>(*at);
  }
}

// One chunk of a thread's pixels in registers: a row of 16 words each.
template <class Products>
struct GemmRows {
  static constexpr int kRows = Products::kTile.pixels / Products::kTile.threads;
  uint32_t word[kRows][kGemmRowBytes / 4];
};

// Loads one chunk of the pixels element by element; neighbouring threads have neighbouring pixels.
template <class Products>
__device__ __forceinline__ void fetch_pixels(const unsigned char* input, const GemmPixel* pixels,
                                             const uint4* terms, GemmRows<Products>& rows) {
  constexpr int kPerWord = 4 / Products::kTile.element_bytes;
#pragma unroll
  for (int r = 0; r < GemmRows<Products>::kRows; ++r) {
    const GemmPixel& pixel = pixels[static_cast<int>(threadIdx.x) + r * Products::kTile.threads];
    const uint32_t taps = pixel.taps;
    const int64_t offset = pixel.offset;
#pragma unroll
    for (int i = 0; i < kGemmRowBytes / 4; ++i) {
      uint32_t word = 0;
#pragma unroll
      for (int j = 0; j < kPerWord; ++j) {
        const GemmTerm term = load_term(terms, i * kPerWord + j);
        if (reads_inside(taps, term.taps))
          word |= Products::factor_bits(
                      *reinterpret_cast<const typename Products::Storage*>(input + (offset + term.offset)))
                  << (16 * j);
      }
      rows.word[r][i] = word;
    }
  }
}

template <class Products>
__device__ __forceinline__ void put_pixels(const GemmRows<Products>& rows, unsigned char* to) {
#pragma unroll
  for (int r = 0; r < GemmRows<Products>::kRows; ++r) {
    const int row = static_cast<int>(threadIdx.x) + r * Products::kTile.threads;
#pragma unroll
    for (int v = 0; v < kGemmVectors; ++v)
      *reinterpret_cast<uint4*>(to + gemm_offset(row, v)) = uint4{
          rows.word[r][4 * v], rows.word[r][4 * v + 1], rows.word[r][4 * v + 2], rows.word[r][4 * v + 3]};
  }
}

// Asks for one chunk of the weights, which are packed in the order of shared memory.
template <class Products>
__device__ __forceinline__ void copy_weights(const unsigned char* packed, unsigned char* to) {
  constexpr int kBytes = Products::kTile.outputs * kGemmRowBytes;
  constexpr int kStep = Products::kTile.threads * 16;
#pragma unroll
  for (int first = 0; first < kBytes; first += kStep) {
    const int i = first + static_cast<int>(threadIdx.x) * 16;
    if (first + kStep <= kBytes || i < kBytes) cp_async16(to + i, packed + i, true);
  }
}

}  // namespace denoise_ext::cuda
