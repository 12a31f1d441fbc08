// What the weight-gradient kernels share: a walk over pixels, the order of the partial sums, and the kernel
// that adds them.
#pragma once

#include "common.cuh"
#include "primitives.cuh"

namespace denoise_ext::cuda {

// Pixels first, first + step, ... of a batch of images, one after the other: no division after the first.
struct PixelWalk {
  int64_t n;
  int y, x;

  __device__ __forceinline__ PixelWalk(const Tensor4& t, int64_t first, int64_t step)
      : rows_(static_cast<int>(t.size[2])), cols_(static_cast<int>(t.size[3])) {
    const int64_t plane = t.size[2] * t.size[3];
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

// A part's partial sums lie as [k][c][u][v], then, where the bias' gradient is wanted, [k].
__host__ __device__ inline int64_t weight_count(const ConvWeightGradParams& p) {
  return p.grad_weight.size[0] * p.grad_weight.size[1] * p.grad_weight.size[2] * p.grad_weight.size[3];
}

__host__ __device__ inline int64_t partial_count(const ConvWeightGradParams& p) {
  return weight_count(p) + (p.grad_bias != nullptr ? p.coarse.size[1] : 0);
}

// A block of sum_weight_parts_kernel adds so many neighbouring values, each in so many lanes.
constexpr int kSumValues = 32, kSumLanes = 8;

// Adds the parts: a lane those with its number in steps of kSumLanes, then the lanes one after the other.
// The order depends on nothing but the number of parts, so the result is the same in every run.
template <class Storage, class Acc>
__global__ void __launch_bounds__(kSumValues* kSumLanes)
    sum_weight_parts_kernel(ConvWeightGradParams p, const Acc* partials, int parts) {
  __shared__ Acc lanes[kSumLanes][kSumValues];
  const int64_t count = partial_count(p), weights = weight_count(p), kh = p.grad_weight.size[2],
                kw = p.grad_weight.size[3];
  const int value = static_cast<int>(threadIdx.x) % kSumValues;
  const int lane = static_cast<int>(threadIdx.x) / kSumValues;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kSumValues + value;
  Acc sum = 0;
  if (i < count) {
#pragma unroll 4
    for (int part = lane; part < parts; part += kSumLanes) sum += partials[part * count + i];
  }
  lanes[lane][value] = sum;
  __syncthreads();
  if (lane != 0 || i >= count) return;
#pragma unroll
  for (int other = 1; other < kSumLanes; ++other) sum += lanes[other][value];
  if (i >= weights) {
    static_cast<Storage*>(p.grad_bias)[i - weights] = FromAcc<Storage>::convert(sum);
    return;
  }
  const int64_t k = i / (kw * kh * p.grad_weight.size[1]), c = i / (kw * kh) % p.grad_weight.size[1];
  *element<Storage>(p.grad_weight, k, c, i / kw % kh, i % kw) = FromAcc<Storage>::convert(sum);
}

template <class Storage, class Acc>
int sum_weight_parts(const ConvWeightGradParams& params, const Acc* partials, int parts, void* stream) {
  const int64_t blocks = (partial_count(params) + kSumValues - 1) / kSumValues;
  return launch(sum_weight_parts_kernel<Storage, Acc>, dim3(static_cast<unsigned>(blocks)),
                dim3(kSumValues * kSumLanes), 0, stream, params, partials, parts);
}

}  // namespace denoise_ext::cuda
