// Normalisation on the CPU (params/norm.h).
#pragma once

#include <cstdint>
#include <string>

#include "../params/norm.h"
#include "isa.h"
#include "threads.h"

namespace denoise_ext::cpu {

// Division by the deviation over the channels of each pixel, times weight. The mean stays; no bias.
struct DeviationParams {
  LayerNorm2dParams norm;
};

// What both normalisations keep for their kernels. "width": channels in whole vectors.
struct NormPlan {
  NormParams params;
  bool adjacent;  // channels lie side by side: a tile is [pixel][width], else [channel][pixels]
  int64_t width;
  int64_t tile_pixels;  // of a tile [pixel][width]
  size_t scratch_bytes;
};

// Rows are cut into pieces: an image may be one long row.
struct LayerNormPlan : NormPlan {
  int64_t piece_cols, pieces_per_row;
  const void *weight, *bias;  // [width], in the type of sums: ones and zeros where absent
  bool centred;               // the mean is subtracted
};

// Rows are cut into strips. A strip's sums go to partials of its own, added in order.
struct GroupNormPlan : NormPlan {
  int64_t strip_rows, strips_per_image;
  int64_t fold;               // pixels side by side that count as one, with the channels of all of them
  double* partials;           // [strip][sum, sum of squares][width], of differences from the centre
  const double* center;       // [image][width]: zeros; of float64 then each group's mean, to add up once more
  const void *scale, *shift;  // [image][width], in the type of sums: output = act(input * scale + shift)
};

// Tensors are on the CPU, sizes agree and are not zero.
void run(const LayerNorm2dParams& params, const Threads& threads);
void run(const GroupNormParams& params, const Threads& threads);
void run(const DeviationParams& params, const Threads& threads);

std::string explain(const LayerNorm2dParams& params, const KernelTable& table);
std::string explain(const DeviationParams& params, const KernelTable& table);
std::string explain(const GroupNormParams& params, const KernelTable& table);

}  // namespace denoise_ext::cpu
