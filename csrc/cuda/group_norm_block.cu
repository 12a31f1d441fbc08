// Normalisation over the pixels of a group of channels by one block (see params/norm.h): one pass over memory
// while the group fits the block's registers, and a second reading of what does not.
#include <algorithm>

#include "norm.cuh"
#include "norm_variants.h"

namespace denoise_ext::cuda {
namespace {

constexpr int kMostThreads = 512;
constexpr int kHeld = 8;  // vectors of a thread: 128 bytes

// How a group lies in vectors.
struct Shape {
  int lanes;
  bool along_channels;  // a vector has neighbouring channels, not columns
  int threads;          // of a block: whole warps
  int64_t vectors;      // of a group
};

// Where a vector of a group is, in channels from the group's first one.
struct Place {
  int64_t c, y, x;
};

// Vectors first, first + step, ... of a group, in the order of memory.
class GroupWalk {
 public:
  __device__ __forceinline__ GroupWalk(const GroupNormParams& p, bool along_channels, int lanes,
                                       int64_t first, int64_t step)
      : along_channels_(along_channels),
        lanes_(lanes),
        walk_(along_channels ? p.input.size[3] : p.input.size[2],
              (along_channels ? p.input.size[1] / p.groups : p.input.size[3]) / lanes, first, step) {}

  __device__ __forceinline__ Place place() const {
    const int64_t first = int64_t{walk_.x} * lanes_;
    return along_channels_ ? Place{first, walk_.n, walk_.y} : Place{walk_.n, walk_.y, first};
  }
  __device__ __forceinline__ void advance() { walk_.advance(); }

 private:
  bool along_channels_;
  int lanes_;
  PixelWalk walk_;
};

template <class Storage, int kLanes>
__global__ void __launch_bounds__(kMostThreads, 1) group_norm_block_kernel(GroupNormParams p, Shape shape) {
  using Acc = typename AccOf<Storage>::type;
  __shared__ Moments of_warps[kWarp];
  __shared__ Statistics shared;
  const int64_t per_group = p.input.size[1] / p.groups, sets = p.input.size[0] * p.groups;
  const int64_t thread = threadIdx.x, step = shape.threads;
  const double count = static_cast<double>(shape.vectors) * kLanes;
  for (int64_t set = blockIdx.x; set < sets; set += gridDim.x) {
    const int64_t n = set / p.groups, c0 = set % p.groups * per_group;
    const auto load = [&](const Place& at) {
      return load_packed<Storage, kLanes>(element<const Storage>(p.input, n, c0 + at.c, at.y, at.x));
    };
    const GroupWalk start(p, shape.along_channels, kLanes, thread, step);
    GroupWalk beyond = start;  // of what is held
    Packed<Storage, kLanes> held[kHeld] = {};
#pragma unroll
    for (int k = 0; k < kHeld; ++k, beyond.advance())
      if (thread + k * step < shape.vectors) held[k] = load(beyond.place());

    const auto find_statistics = [&](double center) {
      Moments sums{};
      Acc x[kLanes];
#pragma unroll
      for (int k = 0; k < kHeld; ++k) {
        if (thread + k * step >= shape.vectors) break;
        unpack_lanes<Storage, kLanes>(held[k], x);
        add_lanes(sums, x, center);
      }
      GroupWalk walk = beyond;
      for (int64_t i = thread + kHeld * step; i < shape.vectors; i += step, walk.advance()) {
        unpack_lanes<Storage, kLanes>(load(walk.place()), x);
        add_lanes(sums, x, center);
      }
      sums = sum_over_block(sums, of_warps);
      if (thread == 0) shared = statistics_of(sums, count, center, p.eps);
      __syncthreads();
    };
    find_statistics(0.0);
    if constexpr (sizeof(Acc) == sizeof(double)) find_statistics(shared.mean);
    const Acc mean = static_cast<Acc>(shared.mean), factor = static_cast<Acc>(shared.factor);

    GroupWalk walk = start;
    // Those held take turns as held[0], so that the code stands here once.
#pragma unroll 1
    for (int64_t i = thread; i < shape.vectors; i += step, walk.advance()) {
      const Place at = walk.place();
      Acc x[kLanes];
      unpack_lanes<Storage, kLanes>(i < kHeld * step ? held[0] : load(at), x);
#pragma unroll
      for (int k = 0; k + 1 < kHeld; ++k) held[k] = held[k + 1];
#pragma unroll
      for (int j = 0; j < kLanes; ++j) {
        const int64_t c = c0 + at.c + (shape.along_channels ? j : 0);
        x[j] = (x[j] - mean) * (factor * channel_term<Storage>(p.weight, c, Acc(1))) +
               channel_term<Storage>(p.bias, c, Acc(0));
      }
      activate_lanes(x, p);
      store_lanes<Storage, kLanes>(element<Storage>(p.output, n, c0 + at.c, at.y, at.x), x);
    }
  }
}

Shape shape_of(const GroupNormParams& p) {
  const int64_t* size = p.input.size;
  const int64_t per_group = size[1] / p.groups;
  const int wide = vector_lanes(p.input.dtype);
  const bool vectors = p.input.dtype != DType::kFloat64;
  Shape s{1, p.input.stride[1] == 1 && per_group > 1, kWarp, 0};
  if (vectors && per_group % wide == 0 && both(p, has_wide_pixels)) {
    s.lanes = wide;
    s.along_channels = true;
  } else if (vectors && both(p, has_wide_rows)) {
    s.lanes = wide;
    s.along_channels = false;
  }
  s.vectors = per_group * size[2] * size[3] / s.lanes;
  while (s.threads < kMostThreads && s.threads * int64_t{kHeld} < s.vectors) s.threads *= 2;
  return s;
}

}  // namespace

int64_t group_norm_block_held(const GroupNormParams& params) {
  const Shape shape = shape_of(with_long_rows(params));
  return std::min(shape.vectors, int64_t{kHeld} * shape.threads) * shape.lanes;
}

int group_norm_block_launch(const GroupNormParams& given, const LaunchContext& context) {
  const GroupNormParams params = with_long_rows(given);
  const Shape shape = shape_of(params);
  const dim3 grid = grid_for(params.input.size[0] * params.groups, context.limits);
  const dim3 block(static_cast<unsigned>(shape.threads));
  return with_storage(params.input.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    if constexpr (sizeof(Storage) < 8) {
      if (shape.lanes > 1)
        return launch(group_norm_block_kernel<Storage, kVectorLanes<Storage>>, grid, block, 0, context.stream,
                      params, shape);
    }
    return launch(group_norm_block_kernel<Storage, 1>, grid, block, 0, context.stream, params, shape);
  });
}

}  // namespace denoise_ext::cuda
