// The input of the row-ring convolution on its way into shared memory, and what is done to it there: the
// mask of an activation's gradient, the rounding to tf32. See conv_rowring.cu.
#pragma once

#include "conv_rowring.cuh"
#include "vectors.cuh"

namespace denoise_ext::cuda {

// One 16-byte vector of neighbouring channels of one pixel, element by element; 0 outside the image
// (pixel: nullptr) and past the last channel.
template <class Storage>
__device__ __forceinline__ uint4 gather_channels(const Tensor4& t, const Storage* pixel, int64_t c) {
  using Bits = ElementBits<Storage>;
  constexpr int kPerWord = 4 / static_cast<int>(sizeof(Bits));
  const Bits* const from = reinterpret_cast<const Bits*>(pixel);
  uint32_t word[4] = {0, 0, 0, 0};
#pragma unroll
  for (int j = 0; j < kVectorLanes<Storage>; ++j)
    if (pixel != nullptr && c + j < t.size[1])
      word[j / kPerWord] |= static_cast<uint32_t>(from[(c + j) * t.stride[1]]) << (16 * (j % kPerWord));
  return uint4{word[0], word[1], word[2], word[3]};
}

// Asks for a step's new rows of one chunk to their places in a plane of the ring, 16 bytes at a time. A
// thread's vectors are kTurnPixels apart in every row, so that all but the row is computed once.
template <class Storage, class Ring>
__device__ __forceinline__ void copy_rows(const Tensor4& input, const RowRingPlan& plan,
                                          const RowRingStep& step, int first_row, int chunk, int vectors,
                                          unsigned char* plane) {
  constexpr int kTurnPixels = Ring::kThreads / Ring::kVectors, kTurns = Ring::kWidth / kTurnPixels;
  // Beside those of kWidth pixels, a row's last pixels have so many vectors.
  constexpr int kRest = (Ring::kPixels - Ring::kWidth) * Ring::kVectors;
  static_assert(Ring::kWidth % kTurnPixels == 0 && kTurnPixels % 8 == 0, "as Ring::offset() repeats");
  static_assert(Ring::kWindow * kRest <= Ring::kThreads, "one turn for the rest of all rows");
  const Storage* const data = static_cast<const Storage*>(input.data);
  const int thread = static_cast<int>(threadIdx.x), vector = thread % Ring::kVectors;
  const int c = chunk * Ring::kChunk + vector * kVectorLanes<Storage>, x0 = step.x - plan.left;
  if (vector >= vectors) return;
  const auto row_inside = [&](int row) {
    const int y = step.y - plan.top + row;
    return y >= 0 && y < input.size[2] && c < input.size[1];
  };
  const auto offset_of = [&](int row, int pixel) {
    return step.image * input.stride[0] + c + (step.y - plan.top + row) * input.stride[2] +
           (x0 + pixel) * input.stride[3];
  };
  const auto x_inside = [&](int pixel) { return x0 + pixel >= 0 && x0 + pixel < input.size[3]; };
  const int pixel = thread / Ring::kVectors;
  unsigned char* const to = plane + Ring::offset(pixel, vector);
  int64_t from = offset_of(first_row, pixel);
#pragma unroll 1
  for (int row = first_row; row < Ring::kWindow; ++row, from += input.stride[2]) {
#pragma unroll
    for (int turn = 0; turn < kTurns; ++turn) {
      const int on = turn * kTurnPixels;
      const bool inside = row_inside(row) && x_inside(pixel + on);
      cp_async16(to + window_row<Ring>(plan, step, row) + on * Ring::kPixelBytes,
                 inside ? data + (from + on * input.stride[3]) : data, inside);
    }
  }
  if constexpr (kRest > 0) {
    const int row = first_row + thread / kRest, last = Ring::kWidth + thread % kRest / Ring::kVectors;
    if (row >= Ring::kWindow) return;
    const bool inside = row_inside(row) && x_inside(last);
    cp_async16(plane + window_row<Ring>(plan, step, row) + Ring::offset(last, vector),
               inside ? data + offset_of(row, last) : data, inside);
  }
}

// The same for any strides, element by element and at once; `mask` is the mask's row.
template <class Storage, class Ring>
__device__ __forceinline__ void gather_row(const ConvParams& p, const Storage* row, const Storage* mask,
                                           int x0, int c0, int vectors, unsigned char* to) {
  const Tensor4& input = p.input;
  const Tensor4& saved = p.input_mask.saved;
  // Neighbouring threads take neighbouring channels, or neighbouring pixels where those are closer.
  const bool along_pixels = input.stride[3] < input.stride[1];
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < Ring::kPixels * Ring::kVectors; i += Ring::kThreads) {
    const int pixel = along_pixels ? i % Ring::kPixels : i / Ring::kVectors;
    const int vector = along_pixels ? i / Ring::kPixels : i % Ring::kVectors;
    const int x = x0 + pixel, c = c0 + kVectorLanes<Storage> * vector;
    if (vector >= vectors) continue;
    const bool inside = row != nullptr && x >= 0 && x < input.size[3];
    uint4 loaded = gather_channels(input, inside ? row + x * input.stride[3] : nullptr, c);
    if (inside && mask != nullptr)
      loaded = apply_mask<Storage>(loaded, gather_channels(saved, mask + x * saved.stride[3], c),
                                   static_cast<float>(p.input_mask.slope));
    *reinterpret_cast<uint4*>(to + Ring::offset(pixel, vector)) = as_factors<Storage, !Ring::kSplit>(loaded);
  }
}

// Asks for the mask's row to be brought near, for finish_rows() will wait for it: the line of 128 bytes in
// which a pixel's chunk begins.
template <class Storage, class Ring>
__device__ __forceinline__ void prefetch_row(const Tensor4& saved, const Storage* row, int x0, int c0) {
  const int pixel = static_cast<int>(threadIdx.x), x = x0 + pixel;
  if (row != nullptr && pixel < Ring::kPixels && x >= 0 && x < saved.size[3])
    prefetch_to_l2(row + x * saved.stride[3] + c0);
}

// Starts the copies of a step's new rows into the ring.
template <class Storage, class Ring>
__device__ __forceinline__ void load_rows(const ConvParams& p, const RowRingPlan& plan,
                                          const RowRingStep& step, unsigned char* ring) {
  const int first_row = Ring::kWindow - new_rows<Ring>(step), x0 = step.x - plan.left;
  const bool masked = p.input_mask.saved.data != nullptr;
#pragma unroll 1
  for (int plane = 0; plane < plan.planes; ++plane) {
    const int chunk = step.chunk + plane, c0 = chunk * Ring::kChunk;
    const int vectors = 2 * chunk_products<Ring>(p, chunk);
    unsigned char* const to = ring + plane * plan.ring_rows * Ring::kRowBytes;
    if (plan.vector_input) copy_rows<Storage, Ring>(p.input, plan, step, first_row, chunk, vectors, to);
    if (plan.vector_input && !masked) continue;
#pragma unroll 1
    for (int i = first_row; i < Ring::kWindow; ++i) {
      const int y = step.y - plan.top + i;
      const bool inside = y >= 0 && y < p.input.size[2];
      const Storage* const row = inside ? element<const Storage>(p.input, step.image, 0, y, 0) : nullptr;
      const Storage* const mask =
          inside && masked ? element<const Storage>(p.input_mask.saved, step.image, 0, y, 0) : nullptr;
      if (plan.vector_input) {
        prefetch_row<Storage, Ring>(p.input_mask.saved, mask, x0, c0);
      } else {
        gather_row<Storage, Ring>(p, row, mask, x0, c0, vectors, to + window_row<Ring>(plan, step, i));
      }
    }
  }
}

// Whether rows that were copied are not yet what the matrix products take.
template <class Storage, class Ring>
__device__ __forceinline__ bool rows_need_finishing(const ConvParams& p, const RowRingPlan& plan) {
  const bool rounds = sizeof(Storage) == 4 && !Ring::kSplit;
  return plan.vector_input && (rounds || p.input_mask.saved.data != nullptr);
}

// Masks and rounds a step's new rows where they lie, each element once. They have arrived, for all threads
// to see; a barrier must follow.
template <class Storage, class Ring>
__device__ __forceinline__ void finish_rows(const ConvParams& p, const RowRingPlan& plan,
                                            const RowRingStep& step, unsigned char* ring) {
  // A thread's vectors of kRows rows in two turns (5 + 4 of the large 3x3 tile's), for as often it waits for
  // masks; all at once would cost more registers than the products leave.
  constexpr int kRowVectors = Ring::kPixels * Ring::kVectors;
  constexpr int kEach = (Ring::kRows * kRowVectors + Ring::kThreads - 1) / Ring::kThreads;
  constexpr int kBatch = (kEach + 1) / 2;
  const Tensor4& saved = p.input_mask.saved;
  const float slope = static_cast<float>(p.input_mask.slope);
  const int first_row = Ring::kWindow - new_rows<Ring>(step), count = new_rows<Ring>(step) * kRowVectors;
#pragma unroll 1
  for (int plane = 0; plane < plan.planes; ++plane) {
    unsigned char* const rows = ring + plane * plan.ring_rows * Ring::kRowBytes;
#pragma unroll 1
    for (int first = static_cast<int>(threadIdx.x); first < count; first += kBatch * Ring::kThreads) {
      int at[kBatch];
      uint4 mask[kBatch];
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        const int i = first + j * Ring::kThreads;
        const int row = first_row + i / kRowVectors, pixel = i % kRowVectors / Ring::kVectors;
        const int vector = i % Ring::kVectors;
        const int y = step.y - plan.top + row, x = step.x - plan.left + pixel;
        const int c = (step.chunk + plane) * Ring::kChunk + vector * kVectorLanes<Storage>;
        // What lies outside was filled with zeros, which stay zeros.
        const bool inside = i < count && y >= 0 && y < p.input.size[2] && x >= 0 && x < p.input.size[3] &&
                            c < p.input.size[1];
        at[j] = inside ? window_row<Ring>(plan, step, row) + Ring::offset(pixel, vector) : -1;
        if (inside && saved.data != nullptr)
          mask[j] = __ldg(reinterpret_cast<const uint4*>(element<const Storage>(saved, step.image, c, y, x)));
      }
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        if (at[j] < 0) continue;
        uint4* const vector = reinterpret_cast<uint4*>(rows + at[j]);
        const uint4 masked = saved.data != nullptr ? apply_mask<Storage>(*vector, mask[j], slope) : *vector;
        *vector = as_factors<Storage, !Ring::kSplit>(masked);
      }
    }
  }
}

}  // namespace denoise_ext::cuda
