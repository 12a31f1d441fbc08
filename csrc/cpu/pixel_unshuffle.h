// Squares of pixels as channels: torch.nn.functional.pixel_unshuffle into given memory.
#pragma once

#include "../params/types.h"
#include "threads.h"

namespace denoise_ext::cpu {

struct PixelUnshuffleParams {
  Tensor4 input;   // (N, C, H, W)
  Tensor4 output;  // (N, C factor factor, H / factor, W / factor), of any strides
  int64_t factor;
};

void run(const PixelUnshuffleParams& params, const Threads& threads);

}  // namespace denoise_ext::cpu
