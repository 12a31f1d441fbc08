// What the matrix units multiply: factors of 16 bits as they are, float rounded to tf32.
#pragma once

#include <cstdint>
#include <type_traits>

#include "common.cuh"
#include "primitives.cuh"

namespace denoise_ext::cuda {

// An element as it is copied, whatever number it stands for.
template <class Storage>
using ElementBits = std::conditional_t<sizeof(Storage) == 2, uint16_t, uint32_t>;

// Factors that are divided later stay as they are: kRounded is false.
template <class Storage, bool kRounded = true>
__device__ __forceinline__ uint4 as_factors(uint4 vector) {
  if constexpr (sizeof(Storage) == 4 && kRounded)
    return uint4{to_tf32(__uint_as_float(vector.x)), to_tf32(__uint_as_float(vector.y)),
                 to_tf32(__uint_as_float(vector.z)), to_tf32(__uint_as_float(vector.w))};
  return vector;
}

// c += a b; the layout of a, b and c is in primitives.cuh.
__device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                         Float16) {
  mma_m16n8k16_f16(c, a, b);
}
__device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                         BFloat16) {
  mma_m16n8k16_bf16(c, a, b);
}
__device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                         float) {
  mma_m16n8k8_tf32(c, a, b);
}

}  // namespace denoise_ext::cuda
