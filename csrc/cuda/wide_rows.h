// Whether images can be read in vectors of neighbouring columns (host code, no CUDA).
#pragma once

#include <utility>

#include "conv_conditions.h"

namespace denoise_ext::cuda {

// As has_wide_pixels() for channels.
inline bool has_wide_rows(const Tensor4& t) {
  Tensor4 exchanged = t;
  std::swap(exchanged.size[1], exchanged.size[3]);
  std::swap(exchanged.stride[1], exchanged.stride[3]);
  return has_wide_pixels(exchanged);
}

}  // namespace denoise_ext::cuda
