// Sigmas as the filters' parameters hold them.
#pragma once

#include "../params/types.h"

namespace denoise_ext::cpu {

inline double sigma_at(const Tensor1& sigma, int64_t index) {
  if (sigma.dtype == DType::kFloat64) return static_cast<const double*>(sigma.data)[index * sigma.stride];
  return static_cast<const float*>(sigma.data)[index * sigma.stride];
}

}  // namespace denoise_ext::cpu
