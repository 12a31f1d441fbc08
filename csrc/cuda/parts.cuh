// Sums over many pixels in parts: a walk over a part's pixels, and the order in which the parts are added.
#pragma once

#include "common.cuh"
#include "primitives.cuh"

namespace denoise_ext::cuda {

// Pixels first, first + step, ... of a batch of images, one after the other: no division after the first.
struct PixelWalk {
  int64_t n;
  int y, x;

  __device__ __forceinline__ PixelWalk(int64_t rows, int64_t cols, int64_t first, int64_t step)
      : rows_(static_cast<int>(rows)), cols_(static_cast<int>(cols)) {
    const int64_t plane = rows * cols;
    n = first / plane;
    y = static_cast<int>(first % plane / cols_);
    x = static_cast<int>(first % cols_);
    step_n_ = step / plane;
    step_y_ = static_cast<int>(step % plane / cols_);
    step_x_ = static_cast<int>(step % cols_);
  }

  __device__ __forceinline__ void advance() {
    n += step_n_;
    y += step_y_;
    x += step_x_;
    if (x >= cols_) {
      x -= cols_;
      ++y;
    }
    if (y >= rows_) {
      y -= rows_;
      ++n;
    }
  }

 private:
  int rows_, cols_, step_y_, step_x_;
  int64_t step_n_;
};

// A block that adds parts takes so many neighbouring values, each in so many lanes.
constexpr int kSumValues = 32, kSumLanes = 8, kSumThreads = kSumValues * kSumLanes;

inline unsigned sum_blocks(int64_t values) {
  return static_cast<unsigned>((values + kSumValues - 1) / kSumValues);
}

// One of `count` values that every part has, added up: a lane adds the parts with its number in steps of
// kSumLanes, then the lanes come one after the other. The order depends on nothing but the number of parts,
// so the sum is the same in every run. All kSumThreads threads of the block must come here, once.
template <class Acc>
struct PartsSum {
  int64_t index;  // of the value
  bool is_mine;   // whether this thread has the sum
  Acc sum = 0;

  __device__ __forceinline__ PartsSum(const Acc* partials, int64_t count, int parts) {
    __shared__ Acc lanes[kSumLanes][kSumValues];
    const int value = static_cast<int>(threadIdx.x) % kSumValues;
    const int lane = static_cast<int>(threadIdx.x) / kSumValues;
    index = static_cast<int64_t>(blockIdx.x) * kSumValues + value;
    is_mine = lane == 0 && index < count;
    if (index < count) {
#pragma unroll 4
      for (int part = lane; part < parts; part += kSumLanes) sum += partials[part * count + index];
    }
    lanes[lane][value] = sum;
    __syncthreads();
    if (!is_mine) return;
#pragma unroll
    for (int other = 1; other < kSumLanes; ++other) sum += lanes[other][value];
  }
};

}  // namespace denoise_ext::cuda
