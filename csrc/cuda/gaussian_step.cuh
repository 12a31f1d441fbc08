// The end of a step of gaussian_ring.cuh, stores or sums, and the loop around the steps.
#pragma once

#include "gaussian_ring.cuh"

namespace denoise_ext::cuda {

// uint8 sums are in 1/2^16 and rounded half up, as OpenCV does.
template <class Storage, class Acc>
__device__ __forceinline__ Storage from_sum(Acc sum) {
  if constexpr (sizeof(Storage) == 1) {
    return static_cast<Storage>((static_cast<int>(sum) + (1 << 15)) >> 16);
  } else {
    return FromAcc<Storage>::convert(sum);
  }
}

template <class Storage>
struct alignas(4 * sizeof(Storage)) FourPixels {
  Storage pixel[4];
};

// Row r of the strip from this thread's sums, straight to memory.
template <class Acc>
__device__ __forceinline__ void store_row(const GaussianRing& p, const GaussianStrip<Acc>& s,
                                          const GaussianGroup& g, int r, const Acc (&sums)[4]) {
  const int64_t offset = pixel_offset(p.output, s.n, s.channel + g.channel, s.y0 + r, s.x0 + g.column);
  with_pixels<Acc>(p.output.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    Storage* to = static_cast<Storage*>(p.output.data) + offset;
    using Four = FourPixels<Storage>;
    if (g.column + 4 <= s.columns && p.output.stride[3] == 1 &&
        reinterpret_cast<uintptr_t>(to) % sizeof(Four) == 0) {
      Four four;
#pragma unroll
      for (int x = 0; x < 4; ++x) four.pixel[x] = from_sum<Storage>(sums[x]);
      *reinterpret_cast<Four*>(to) = four;
      return;
    }
#pragma unroll
    for (int x = 0; x < 4; ++x)
      if (g.column + x < s.columns) to[x * p.output.stride[3]] = from_sum<Storage>(sums[x]);
  });
}

// The staged rows first .. first + kStepRows - 1 of the strip, as they lie in memory.
template <class Acc>
__device__ __forceinline__ void store_staged(const GaussianRing& p, const GaussianStrip<Acc>& s, int first,
                                             int thread) {
  const int width = s.columns * p.slice, pitch = p.columns() * p.slice;
  const int64_t offset = pixel_offset(p.output, s.n, s.channel, s.y0, s.x0);
  with_pixels<Acc>(p.output.dtype, [&](auto storage) {
    using Storage = decltype(storage);
#pragma unroll 1
    for (int row = 0; row < kStepRows; ++row) {
      if (first + row < 0 || first + row >= s.rows) continue;
      Storage* to = static_cast<Storage*>(p.output.data) + offset + (first + row) * p.output.stride[2];
#pragma unroll 4
      for (int i = thread; i < width; i += p.threads()) {
        const int x = i / p.slice, c = i - x * p.slice;
        if (c < s.channels)
          to[x * p.output.stride[3] + c * p.output.stride[1]] = from_sum<Storage>(s.lines[row * pitch + i]);
      }
    }
  });
}

// The products of this thread's sums and the gradient of the blurred image.
template <class Acc>
__device__ __forceinline__ double dot_row(const GaussianRing& p, const GaussianStrip<Acc>& s,
                                          const GaussianGroup& g, int r, const Acc (&sums)[4]) {
  const int64_t offset = pixel_offset(p.output, s.n, s.channel + g.channel, s.y0 + r, s.x0 + g.column);
  double total = 0;
#pragma unroll
  for (int x = 0; x < 4; ++x)
    if (g.column + x < s.columns)
      total +=
          static_cast<double>(sums[x]) * static_cast<double>(load_pixel<Acc>(
                                             p.output.data, offset + x * p.output.stride[3], p.output.dtype));
  return total;
}

// The rows whose window the step completes; r: this thread's first. Returns its part of sigma's gradient.
template <class Acc>
__device__ __forceinline__ double emit_rows(const GaussianRing& p, const GaussianStrip<Acc>& s,
                                            const GaussianGroup& g, int r, int slot) {
  if (r >= s.rows || g.channel >= s.channels) return 0;
  const Acc* column = s.ring + g.channel * p.columns() + g.column;
  Acc sums[kRows][4] = {};
  if (has_edge<Acc>(p, 0, s.y0 + r)) {
    sum_edge_ring(p, s, column, slot, s.y0 + r, sums);
  } else {
    sum_ring(p, s, column, slot, sums);
  }
  if (p.mode == GaussianMode::kSigmaGradient) {
    double total = 0;
    // The rows take turns as the first, so that the long code of a product stands here once.
#pragma unroll 1
    for (int j = 0; j < kRows && r + j < s.rows; ++j) {
      total += dot_row(p, s, g, r + j, sums[0]);
#pragma unroll
      for (int i = 0; i + 1 < kRows; ++i)
#pragma unroll
        for (int x = 0; x < 4; ++x) sums[i][x] = sums[i + 1][x];
    }
    return total;
  }
#pragma unroll
  for (int j = 0; j < kRows; ++j) {
    if (r + j >= s.rows) break;
    if (p.staged) {
      Acc* to = s.lines + (g.row + j) * p.columns() * p.slice + g.column * p.slice + g.channel;
#pragma unroll
      for (int x = 0; x < 4; ++x) to[x * p.slice] = sums[j][x];
    } else {
      store_row(p, s, g, r + j, sums[j]);
    }
  }
  return 0;
}

// The whole of a block: every gridDim.x-th task. Sigma gradient: blockIdx.y is the axis.
template <class Acc>
__device__ __forceinline__ void run_gaussian_ring(const GaussianRing& p) {
  const bool sigma = p.mode == GaussianMode::kSigmaGradient;
  GaussianStrip<Acc> s = gaussian_arrays<Acc>(p);
  const int thread = static_cast<int>(threadIdx.x), lanes = p.groups * p.slice, lane = thread % lanes;
  const GaussianGroup g{thread / lanes * kRows, lane / p.groups, lane % p.groups * 4};
  const int window = 2 * p.radius[0];
  // Rows before the strip, so that windows are complete at the end of a step.
  const int lead = (kStepRows - window % kStepRows) % kStepRows;
  for (int64_t task = blockIdx.x; task < p.tasks(); task += gridDim.x) {
    __syncthreads();  // the last task's arrays are no longer read
    place_strip(p, task, s);
    prepare_strip(p, sigma ? static_cast<int>(blockIdx.y) : -1, s, thread);
    prepare_rows(p, s, -lead, thread);
    __syncthreads();
    double total = 0;
    for (int first = -lead; first < s.rows + window; first += kStepRows) {
      load_lines(p, s, thread);
      __syncthreads();
      prepare_rows(p, s, first + kStepRows, thread);
      filter_lines<Acc>(p, s, g, first + lead);
      __syncthreads();
      const int emitted = first - window;
      if (emitted < 0) continue;
      const int slot = (emitted + g.row + lead) % p.ring_rows();
      total += emit_rows<Acc>(p, s, g, emitted + g.row, slot);
      if (!p.staged) continue;
      __syncthreads();
      store_staged(p, s, emitted, thread);
      __syncthreads();
    }
    if (sigma) {
      total = block_sum(total, s.scratch);
      if (thread == 0) p.partials[blockIdx.y * p.tasks() + task] = total;
    }
  }
}

}  // namespace denoise_ext::cuda
