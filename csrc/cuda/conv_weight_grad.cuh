// What the weight-gradient kernels that split the pixels share: the order of the partial sums and the
// kernel that adds them.
#pragma once

#include "common.cuh"
#include "primitives.cuh"

namespace denoise_ext::cuda {

// A part's partial sums lie as [k][c][u][v], then, where the bias' gradient is wanted, [k].
__host__ __device__ inline int64_t weight_count(const ConvWeightGradParams& p) {
  return p.grad_weight.size[0] * p.grad_weight.size[1] * p.grad_weight.size[2] * p.grad_weight.size[3];
}

__host__ __device__ inline int64_t partial_count(const ConvWeightGradParams& p) {
  return weight_count(p) + (p.grad_bias != nullptr ? p.coarse.size[1] : 0);
}

// Adds the parts in their order, so that the result is the same in every run.
template <class Storage, class Acc>
__global__ void __launch_bounds__(256)
    sum_weight_parts_kernel(ConvWeightGradParams p, const Acc* partials, int parts) {
  const int64_t count = partial_count(p), weights = weight_count(p), kh = p.grad_weight.size[2],
                kw = p.grad_weight.size[3];
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (i >= count) return;
  Acc sum = 0;
  for (int part = 0; part < parts; ++part) sum += partials[part * count + i];
  if (i >= weights) {
    static_cast<Storage*>(p.grad_bias)[i - weights] = FromAcc<Storage>::convert(sum);
    return;
  }
  const int64_t k = i / (kw * kh * p.grad_weight.size[1]), c = i / (kw * kh) % p.grad_weight.size[1];
  *element<Storage>(p.grad_weight, k, c, i / kw % kh, i % kw) = FromAcc<Storage>::convert(sum);
}

template <class Storage, class Acc>
int sum_weight_parts(const ConvWeightGradParams& params, const Acc* partials, int parts, void* stream) {
  const int64_t blocks = (partial_count(params) + 255) / 256;
  return launch(sum_weight_parts_kernel<Storage, Acc>, dim3(static_cast<unsigned>(blocks)), dim3(256), 0,
                stream, params, partials, parts);
}

}  // namespace denoise_ext::cuda
