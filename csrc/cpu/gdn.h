// Generalised divisive normalisation (Balle et al. 2016, arXiv:1511.06281), of compression networks:
//   output[k] = input[k] / sqrt(n[k]), inverse: input[k] * sqrt(n[k]),   n[k] = bias[k] + sum weight[k][c]
//   input[c]^2
#pragma once

#include <cstdint>
#include <vector>

#include "conv_params.h"
#include "conv_plan.h"
#include "isa.h"
#include "threads.h"

namespace denoise_ext::cpu {

// `conv`: the 1x1 convolution of the squares, with a weight packed for the direct algorithm. Its input and
// output are those of the whole.
struct GdnParams {
  ConvParams conv;
  bool inverse;
};

struct GdnPlan {
  ConvParams conv;
  bool inverse;
  int64_t channels, width;  // and in whole vectors
  std::vector<ChannelBlock> blocks;
  int64_t piece, pieces_per_row;        // pixels of a row that are one task
  int64_t squares_offset, sums_offset;  // floats, in the scratch, behind the piece's pixels
  size_t scratch_bytes;
  const float *weight, *bias;  // [block][channel][block's filters]; [width]
};

// Why it cannot be computed so, or nullptr.
const char* gdn_obstacle(const GdnParams& params);

void run(const GdnParams& params, const Threads& threads);
std::string explain(const GdnParams& params, const KernelTable& table);

}  // namespace denoise_ext::cpu
