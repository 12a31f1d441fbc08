// What the weight-gradient kernels share: the order of the partial sums, and the kernel that adds them.
#pragma once

#include "common.cuh"
#include "parts.cuh"
#include "primitives.cuh"

namespace denoise_ext::cuda {

// A part's partial sums lie as [k][c][u][v], then, where the bias' gradient is wanted, [k].
__host__ __device__ inline int64_t weight_count(const ConvWeightGradParams& p) {
  return p.grad_weight.size[0] * p.grad_weight.size[1] * p.grad_weight.size[2] * p.grad_weight.size[3];
}

__host__ __device__ inline int64_t partial_count(const ConvWeightGradParams& p) {
  return weight_count(p) + (p.grad_bias != nullptr ? p.coarse.size[1] : 0);
}

template <class Storage, class Acc>
__global__ void __launch_bounds__(kSumThreads)
    sum_weight_parts_kernel(ConvWeightGradParams p, const Acc* partials, int parts) {
  const int64_t weights = weight_count(p), kh = p.grad_weight.size[2], kw = p.grad_weight.size[3];
  const PartsSum<Acc> total(partials, partial_count(p), parts);
  if (!total.is_mine) return;
  const int64_t i = total.index;
  if (i >= weights) {
    static_cast<Storage*>(p.grad_bias)[i - weights] = FromAcc<Storage>::convert(total.sum);
    return;
  }
  const int64_t k = i / (kw * kh * p.grad_weight.size[1]), c = i / (kw * kh) % p.grad_weight.size[1];
  *element<Storage>(p.grad_weight, k, c, i / kw % kh, i % kw) = FromAcc<Storage>::convert(total.sum);
}

template <class Storage, class Acc>
int sum_weight_parts(const ConvWeightGradParams& params, const Acc* partials, int parts, void* stream) {
  return launch(sum_weight_parts_kernel<Storage, Acc>, dim3(sum_blocks(partial_count(params))),
                dim3(kSumThreads), 0, stream, params, partials, parts);
}

}  // namespace denoise_ext::cuda
