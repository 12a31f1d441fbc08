// Block matching: a first kernel makes both frames' pyramids in the workspace, in a second one each block
// of threads finds the motion of one 8x8 block. All arithmetic is in integers, as on the CPU.
#include "motion.cuh"
#include "motion_variants.h"

namespace denoise_ext::cuda {
namespace {

constexpr int kPyramidThreads = 256, kMatchThreads = 96;
constexpr int kSearch = static_cast<int>(kCoarseSearch), kSide = 2 * kSearch + 1;
constexpr int kCandidates = kSide * kSide, kCentre = kCandidates / 2;
constexpr int kNeighbours = 9;

// Of all images: the previous frames' pyramids follow those of the input frames. A level has rows * side by
// columns * side bytes, side 8, 4 and 2.
struct Pyramids {
  uint8_t* data;
  int64_t images, rows, columns;

  __host__ __device__ int64_t level_bytes(int level) const { return rows * columns * (64 >> 2 * level); }
  __host__ __device__ int64_t bytes() const { return level_bytes(0) + level_bytes(1) + level_bytes(2); }
  __device__ uint8_t* level(int64_t pyramid, int level) const {
    uint8_t* at = data + pyramid * bytes();
    for (int i = 0; i < level; ++i) at += level_bytes(i);
    return at;
  }
};

// [0, 1] in steps of 1/256, exact in every type: a power of two rounds nothing. NaN counts as 0.
template <class Acc>
__device__ __forceinline__ int step_of(Acc x) {
  const Acc steps = (x > Acc(0) ? x : Acc(0)) * Acc(256);
  return static_cast<int>(steps < Acc(255) ? steps : Acc(255));
}

__device__ __forceinline__ int byte_at(const Tensor4& t, int64_t n, int64_t y, int64_t x) {
  const int64_t offset = pixel_offset(t, n, 0, clamped(y, t.size[2]), clamped(x, t.size[3]));
  if (t.dtype == DType::kUInt8) return static_cast<const uint8_t*>(t.data)[offset];
  if (t.dtype == DType::kFloat64) return step_of(static_cast<const double*>(t.data)[offset]);
  return step_of(load_pixel<float>(t.data, offset, t.dtype));
}

// A thread per pixel of a quarter of the resolution.
__global__ void __launch_bounds__(kPyramidThreads)
    block_match_pyramid_kernel(BlockMatchParams p, Pyramids pyramids) {
  const int64_t height = 2 * pyramids.rows, width = 2 * pyramids.columns;
  const int64_t count = 2 * pyramids.images * height * width;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kPyramidThreads + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * kPyramidThreads) {
    const int64_t pyramid = i / (height * width), y = i / width % height, x = i % width;
    const bool first = pyramid < pyramids.images;
    const int64_t n = first ? pyramid : pyramid - pyramids.images;
    uint8_t *full = pyramids.level(pyramid, 0), *half = pyramids.level(pyramid, 1);
    int quarter = 0;
    for (int dy = 0; dy < 2; ++dy) {
      for (int dx = 0; dx < 2; ++dx) {
        int sum = 0;
        for (int j = 0; j < 4; ++j) {
          const int64_t row = 4 * y + 2 * dy + j / 2, column = 4 * x + 2 * dx + j % 2;
          const int value = first ? byte_at(p.input, n, row, column) : byte_at(p.previous, n, row, column);
          full[row * 4 * width + column] = static_cast<uint8_t>(value);
          sum += value;
        }
        const int mean = (sum + 2) >> 2;
        half[(2 * y + dy) * 2 * width + 2 * x + dx] = static_cast<uint8_t>(mean);
        quarter += mean;
      }
    }
    pyramids.level(pyramid, 2)[y * width + x] = static_cast<uint8_t>((quarter + 2) >> 2);
  }
}

// Where a block of threads looks: its block, and both pyramids of its image.
struct Place {
  int64_t image, row, column;
};

// The sum of absolute differences over rows [from, to) of the block's window, moved by (dy, dx), at a level.
__device__ __forceinline__ int differences(const Pyramids& pyramids, const Place& at, int level, int dy,
                                           int dx, int from, int to) {
  const int side = 8 >> level;
  const int height = static_cast<int>(pyramids.rows) * side,
            width = static_cast<int>(pyramids.columns) * side;
  const uint8_t* here = pyramids.level(at.image, level);
  const uint8_t* there = pyramids.level(pyramids.images + at.image, level);
  const int left = static_cast<int>(at.column) * side - side / 2;
  int sum = 0;
#pragma unroll 1
  for (int i = from; i < to; ++i) {
    const int y = static_cast<int>(at.row) * side - side / 2 + i;
    const uint8_t* line = here + static_cast<int64_t>(clamped(y, height)) * width;
    const uint8_t* moved = there + static_cast<int64_t>(clamped(y + dy, height)) * width;
#pragma unroll 1
    for (int x = left; x < left + 2 * side; ++x) {
      const int difference = line[clamped(x, width)] - moved[clamped(x + dx, width)];
      sum += difference < 0 ? -difference : difference;
    }
  }
  return sum;
}

__global__ void __launch_bounds__(kMatchThreads) block_match_kernel(BlockMatchParams p, Pyramids pyramids) {
  // Costs times the number of candidates, plus the candidate's place in the order: the first of the
  // smallest wins.
  __shared__ int ranked[kMatchThreads];
  __shared__ int vector[2];
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t index = blockIdx.x, blocks = pyramids.rows * pyramids.columns;
  const Place at{index / blocks, index % blocks / pyramids.columns, index % pyramids.columns};
  const int64_t offset = pixel_offset(p.sigma, at.image, 0, at.row, at.column);
  const double sigma = p.sigma.dtype == DType::kFloat64
                           ? static_cast<const double*>(p.sigma.data)[offset]
                           : static_cast<double>(load_pixel<float>(p.sigma.data, offset, p.sigma.dtype));
  const double level = sigma > 0 ? (sigma < kLargestSigma ? sigma : kLargestSigma) : 0.0;  // NaN: 0
  if (thread < kCandidates) {
    // The zero vector first, which wins where others are no better.
    const int candidate = thread == 0 ? kCentre : (thread <= kCentre ? thread - 1 : thread);
    const int dy = candidate / kSide - kSearch, dx = candidate % kSide - kSearch;
    int cost = differences(pyramids, at, 2, dy, dx, 0, 4);
    if (thread > 0) {
      cost += static_cast<int>(rint(kCoarseWindow * kCoarseSigma * level));
      cost += kVectorLength * ((dy < 0 ? -dy : dy) + (dx < 0 ? -dx : dx));
    }
    ranked[thread] = cost * kCandidates + thread;
  }
  __syncthreads();
  if (thread == 0) {
    int best = ranked[0];
    for (int i = 1; i < kCandidates; ++i) best = smaller(best, ranked[i]);
    const int order = best % kCandidates;
    const int candidate = order == 0 ? kCentre : (order <= kCentre ? order - 1 : order);
    vector[0] = 2 * (candidate / kSide - kSearch);
    vector[1] = 2 * (candidate % kSide - kSearch);
  }
  for (int scale = 1; scale >= 0; --scale) {
    __syncthreads();
    const int neighbour = thread / 8, part = thread % 8, rows = 2 >> scale;
    const int y = neighbour / 3 == 2 ? 1 : -(neighbour / 3), x = neighbour % 3 == 2 ? 1 : -(neighbour % 3);
    const int dy = vector[0], dx = vector[1];
    if (neighbour < kNeighbours)
      ranked[thread] = differences(pyramids, at, scale, dy + y, dx + x, part * rows, part * rows + rows);
    __syncthreads();
    if (thread == 0) {
      const double window = scale == 1 ? kHalfWindow : kFullWindow;
      const int penalty =
          static_cast<int>(rint(window * kStill)) + static_cast<int>(rint(window * kFineSigma * level));
      int best = 0;
      for (int i = 0; i < kNeighbours; ++i) {
        int cost = i > 0 ? penalty : 0;
        for (int j = 0; j < 8; ++j) cost += ranked[8 * i + j];
        const int rank = cost * kNeighbours + i;
        best = i == 0 ? rank : smaller(best, rank);
      }
      const int order = best % kNeighbours, factor = scale == 1 ? 2 : 1;
      vector[0] = factor * (dy + (order / 3 == 2 ? 1 : -(order / 3)));
      vector[1] = factor * (dx + (order % 3 == 2 ? 1 : -(order % 3)));
    }
  }
  if (thread == 0) {
    p.motion[2 * index] = static_cast<int16_t>(vector[0]);
    p.motion[2 * index + 1] = static_cast<int16_t>(vector[1]);
  }
}

Pyramids pyramids_of(const BlockMatchParams& params, void* workspace) {
  return {static_cast<uint8_t*>(workspace), params.input.size[0],
          (params.input.size[2] + kBlock - 1) / kBlock, (params.input.size[3] + kBlock - 1) / kBlock};
}

}  // namespace

int64_t block_match_workspace(const BlockMatchParams& params, const DeviceLimits&) {
  return 2 * params.input.size[0] * pyramids_of(params, nullptr).bytes();
}

int block_match_launch(const BlockMatchParams& params, const LaunchContext& context) {
  const Pyramids pyramids = pyramids_of(params, context.workspace);
  const int64_t blocks = pyramids.images * pyramids.rows * pyramids.columns;
  const dim3 grid = grid_for(8 * blocks, kPyramidThreads, context.limits);
  const int code =
      launch(block_match_pyramid_kernel, grid, dim3(kPyramidThreads), 0, context.stream, params, pyramids);
  if (code != 0) return code;
  return launch(block_match_kernel, dim3(static_cast<unsigned>(blocks)), dim3(kMatchThreads), 0,
                context.stream, params, pyramids);
}

}  // namespace denoise_ext::cuda
