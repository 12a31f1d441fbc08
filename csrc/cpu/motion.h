// Motion between two frames by block matching, motion compensation, and recurrent fusion.
//
// Matching is integer arithmetic: the sums of absolute differences of 8-bit pyramids are the same on every
// instruction set and for every number of threads.
#pragma once

#include <cstdint>
#include <string>

#include "../params/arithmetic.h"
#include "../params/motion.h"
#include "isa.h"
#include "threads.h"

namespace denoise_ext::cpu {

// Both frames as 8-bit planes of full, half and quarter resolution, each continued by its edge pixels.
constexpr int kLevels = 3;
constexpr int64_t kPyramidBorder = 32;  // pixels around the full resolution; half, a quarter below it
constexpr int64_t kRowSlack = 64;       // bytes after a row that the widest vector may touch

struct PyramidLevel {
  int64_t width, height, border;
  int64_t stride;  // bytes from row to row
  int64_t offset;  // bytes from the pyramid's begin to pixel (0, 0)
};

// What a vector that is not zero has to win by, in sums of absolute differences.
struct MatchPenalty {
  int32_t coarse, half, full;
};

// Of one image of a batch: memory does not grow with their number.
struct BlockMatchPlan {
  Tensor4 frames[2];  // input, previous
  int64_t image;
  int64_t rows, columns;
  PyramidLevel level[kLevels];
  int64_t pyramid_bytes;
  uint8_t* pyramids;              // of input, of previous
  const MatchPenalty* penalties;  // of the blocks
  int16_t* motion;
};

// Tensors are on the CPU, sizes agree and are not zero.
void run(const BlockMatchParams& params, const Threads& threads);
void run(const BlockWarpParams& params, const Threads& threads);
void run(const RecurrentFuseParams& params, const Threads& threads);
void run(const RecurrentFuseGradParams& params, const Threads& threads);

std::string explain(const BlockMatchParams& params, const KernelTable& table);
std::string explain(const BlockWarpParams& params, const KernelTable& table);
std::string explain(const RecurrentFuseParams& params, const KernelTable& table);
std::string explain(const RecurrentFuseGradParams& params, const KernelTable& table);

}  // namespace denoise_ext::cpu
