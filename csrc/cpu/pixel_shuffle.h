// Squares of pixels as channels and back, into given memory: torch.nn.functional.pixel_unshuffle and
// pixel_shuffle.
#pragma once

#include "../params/types.h"
#include "threads.h"

namespace denoise_ext::cpu {

struct PixelUnshuffleParams {
  Tensor4 input;   // (N, C, H, W)
  Tensor4 output;  // (N, C factor factor, H / factor, W / factor), of any strides
  int64_t factor;
};

// The reverse: sizes of input and output are exchanged.
struct PixelShuffleParams {
  Tensor4 input, output;
  int64_t factor;
};

void run(const PixelUnshuffleParams& params, const Threads& threads);
void run(const PixelShuffleParams& params, const Threads& threads);

}  // namespace denoise_ext::cpu
