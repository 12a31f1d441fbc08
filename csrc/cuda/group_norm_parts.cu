// Normalisation over the pixels of a group of channels by all blocks (see params/norm.h). Three kernels: sums
// of each channel over parts of the pixels, a scale and a shift of each channel from them, and the result.
#include <algorithm>

#include "norm.cuh"
#include "norm_variants.h"

namespace denoise_ext::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = 2;         // per multiprocessor to leave registers for: 128 a thread
constexpr int64_t kPartTurns = 8;  // pixels of a thread; more where there would be more than kMostParts
constexpr int64_t kMostParts = 1 << 10;

// How the threads of a block lie. Nothing depends on the device, so neither do the sums.
struct Shape {
  int lanes;            // elements of a thread's vector
  bool along_channels;  // of neighbouring channels, not columns
  int threads;          // beside each other along the channels, a power of 2; the others take other pixels
  int64_t blocks;       // along the channels
  int64_t pixels;       // of an image, or vectors of columns: what the parts divide
  int64_t parts;
  int64_t pieces;  // blocks of work: images x blocks x parts
};

// Temporary memory.
struct Workspace {
  double* partials;       // [image][part][sum, sum of squares][channel]
  double* center;         // [image][channel], of float64: the mean from the first reading
  double *scale, *shift;  // [image][channel]
};

// A thread's share of a piece: pixels first, first + step, ... of channels c on.
struct Share {
  int64_t n, part, c, first, step;

  __device__ __forceinline__ Share(const Shape& shape, int64_t piece, int channels_each) {
    const int thread = static_cast<int>(threadIdx.x), at_once = kThreads / shape.threads;
    part = piece % shape.parts;
    n = piece / shape.parts / shape.blocks;
    c = (piece / shape.parts % shape.blocks * shape.threads + thread % shape.threads) * channels_each;
    first = part * at_once + thread / shape.threads;
    step = shape.parts * at_once;
  }
};

// The sums of the block's threads that have the same channels, in the first `threads` of them.
__device__ __forceinline__ Moments sum_over_pixels(Moments (&sums)[kThreads], const Moments& mine,
                                                   int threads) {
  const int thread = static_cast<int>(threadIdx.x);
  __syncthreads();  // others may still read what is there
  sums[thread] = mine;
  for (int half = kThreads / 2; half >= threads; half /= 2) {
    __syncthreads();
    if (thread >= half) continue;
    sums[thread].sum += sums[thread + half].sum;
    sums[thread].squares += sums[thread + half].squares;
  }
  return sums[thread];
}

template <class Storage, int kLanes, bool kAlongChannels>
__global__ void __launch_bounds__(kThreads, kBlocks)
    group_norm_sums_kernel(GroupNormParams p, Shape shape, double* partials, const double* center) {
  using Acc = typename AccOf<Storage>::type;
  constexpr int kChannels = kAlongChannels ? kLanes : 1, kColumns = kAlongChannels ? 1 : kLanes;
  __shared__ Moments shared[kThreads];
  const int64_t channels = p.input.size[1];
  for (int64_t piece = blockIdx.x; piece < shape.pieces; piece += gridDim.x) {
    const Share at(shape, piece, kChannels);
    const double middle = center != nullptr && at.c < channels ? center[at.n * channels + at.c] : 0.0;
    Moments sums[kChannels] = {};
    PixelWalk walk(p.input.size[2], p.input.size[3] / kColumns, at.first, at.step);
    for (int64_t i = at.first; at.c < channels && i < shape.pixels; i += at.step, walk.advance()) {
      Acc x[kLanes];
      const int64_t column = int64_t{walk.x} * kColumns;
      unpack_lanes<Storage, kLanes>(
          load_packed<Storage, kLanes>(element<const Storage>(p.input, at.n, at.c, walk.y, column)), x);
      if constexpr (kChannels == 1) {
        add_lanes(sums[0], x, middle);
      } else {
#pragma unroll
        for (int j = 0; j < kLanes; ++j) add_value(sums[j], x[j], middle);
      }
    }
    double* const to = partials + (at.n * shape.parts + at.part) * 2 * channels;
#pragma unroll
    for (int j = 0; j < kChannels; ++j) {
      const Moments total = sum_over_pixels(shared, sums[j], shape.threads);
      if (static_cast<int>(threadIdx.x) >= shape.threads || at.c >= channels) continue;
      to[at.c + j] = total.sum;
      to[channels + at.c + j] = total.squares;
    }
  }
}

// Of each group, a block's work: the mean alone (`center`, from differences from 0), or scale and shift.
template <class Storage>
__global__ void __launch_bounds__(kThreads)
    group_norm_statistics_kernel(GroupNormParams p, int64_t parts, Workspace work, bool center_alone) {
  __shared__ Moments of_warps[kWarp];
  __shared__ Statistics shared;
  const int64_t channels = p.input.size[1], per_group = channels / p.groups;
  const int64_t sets = p.input.size[0] * p.groups;
  const double count =
      static_cast<double>(per_group) * static_cast<double>(p.input.size[2] * p.input.size[3]);
  for (int64_t set = blockIdx.x; set < sets; set += gridDim.x) {
    const int64_t n = set / p.groups, c0 = set % p.groups * per_group;
    const bool centered = work.center != nullptr && !center_alone;
    Moments sums{};
    for (int64_t i = threadIdx.x; i < parts * per_group; i += kThreads) {
      const double* const of_part = work.partials + (n * parts + i / per_group) * 2 * channels;
      sums.sum += of_part[c0 + i % per_group];
      sums.squares += of_part[channels + c0 + i % per_group];
    }
    sums = sum_over_block(sums, of_warps);
    if (threadIdx.x == 0)
      shared = statistics_of(sums, count, centered ? work.center[n * channels + c0] : 0.0, p.eps);
    __syncthreads();
    for (int64_t i = threadIdx.x; i < per_group; i += kThreads) {
      const int64_t c = c0 + i, at = n * channels + c;
      if (center_alone) {
        work.center[at] = shared.mean;
        continue;
      }
      const double scale = shared.factor * channel_term<Storage>(p.weight, c, 1.0);
      work.scale[at] = scale;
      work.shift[at] = channel_term<Storage>(p.bias, c, 0.0) - shared.mean * scale;
    }
  }
}

template <class Storage, int kLanes, bool kAlongChannels>
__global__ void __launch_bounds__(kThreads, kBlocks)
    group_norm_apply_kernel(GroupNormParams p, Shape shape, const double* scales, const double* shifts) {
  using Acc = typename AccOf<Storage>::type;
  constexpr int kChannels = kAlongChannels ? kLanes : 1, kColumns = kAlongChannels ? 1 : kLanes;
  const int64_t channels = p.input.size[1];
  for (int64_t piece = blockIdx.x; piece < shape.pieces; piece += gridDim.x) {
    const Share at(shape, piece, kChannels);
    if (at.c >= channels) continue;
    Acc scale[kChannels], shift[kChannels];
#pragma unroll
    for (int j = 0; j < kChannels; ++j) {
      scale[j] = static_cast<Acc>(scales[at.n * channels + at.c + j]);
      shift[j] = static_cast<Acc>(shifts[at.n * channels + at.c + j]);
    }
    PixelWalk walk(p.input.size[2], p.input.size[3] / kColumns, at.first, at.step);
#pragma unroll 1
    for (int64_t i = at.first; i < shape.pixels; i += at.step, walk.advance()) {
      Acc x[kLanes];
      const int64_t column = int64_t{walk.x} * kColumns;
      unpack_lanes<Storage, kLanes>(
          load_packed<Storage, kLanes>(element<const Storage>(p.input, at.n, at.c, walk.y, column)), x);
#pragma unroll
      for (int j = 0; j < kLanes; ++j) {
        const int channel = kAlongChannels ? j : 0;
        x[j] = x[j] * scale[channel] + shift[channel];
      }
      activate_lanes(x, p);
      store_lanes<Storage, kLanes>(element<Storage>(p.output, at.n, at.c, walk.y, column), x);
    }
  }
}

Shape shape_of(const GroupNormParams& p) {
  const int64_t* size = p.input.size;
  const bool vectors = p.input.dtype != DType::kFloat64;
  const int wide = vector_lanes(p.input.dtype);
  // Lanes along a single channel would have nothing to do but one of them.
  Shape s{1, true, p.input.stride[1] == 1 && size[1] > 1 ? kWarp : 1, 0, 0, 0, 0};
  if (vectors && both(p, has_wide_pixels)) {
    s.lanes = wide;
    s.threads = 8;
    while (s.threads > 1 && s.threads / 2 * wide >= size[1]) s.threads /= 2;
  } else if (vectors && both(p, has_wide_rows)) {
    s.lanes = wide;
    s.along_channels = false;
    s.threads = 1;
  }
  s.blocks = divide_up(size[1], int64_t{s.threads} * (s.along_channels ? s.lanes : 1));
  s.pixels = size[2] * size[3] / (s.along_channels ? 1 : s.lanes);
  s.parts = std::min(kMostParts, divide_up(s.pixels, kPartTurns * (kThreads / s.threads)));
  s.pieces = size[0] * s.blocks * s.parts;
  return s;
}

Workspace workspace_at(void* memory, const GroupNormParams& p, const Shape& shape) {
  const int64_t values = p.input.size[0] * p.input.size[1];
  auto* const first = static_cast<double*>(memory);
  double* const center = first + 2 * values * shape.parts;
  return {first, p.input.dtype == DType::kFloat64 ? center : nullptr, center + values, center + 2 * values};
}

template <class Storage, int kLanes, bool kAlongChannels>
int run_kernels(const GroupNormParams& p, const Shape& shape, const Workspace& work,
                const LaunchContext& context) {
  const dim3 grid = grid_for(shape.pieces, context.limits), block(kThreads);
  const dim3 groups = grid_for(p.input.size[0] * p.groups, context.limits);
  const int readings = work.center != nullptr ? 2 : 1;
  for (int reading = 0; reading < readings; ++reading) {
    const double* const center = reading > 0 ? work.center : nullptr;
    int code = launch(group_norm_sums_kernel<Storage, kLanes, kAlongChannels>, grid, block, 0, context.stream,
                      p, shape, work.partials, center);
    if (code == 0)
      code = launch(group_norm_statistics_kernel<Storage>, groups, block, 0, context.stream, p, shape.parts,
                    work, reading + 1 < readings);
    if (code != 0) return code;
  }
  return launch(group_norm_apply_kernel<Storage, kLanes, kAlongChannels>, grid, block, 0, context.stream, p,
                shape, work.scale, work.shift);
}

}  // namespace

int64_t group_norm_parts_workspace(const GroupNormParams& params, const DeviceLimits&) {
  const int64_t values = params.input.size[0] * params.input.size[1];
  return values * (2 * shape_of(with_long_rows(params)).parts + 3) * static_cast<int64_t>(sizeof(double));
}

int group_norm_parts_launch(const GroupNormParams& given, const LaunchContext& context) {
  const GroupNormParams params = with_long_rows(given);
  const Shape shape = shape_of(params);
  const Workspace work = workspace_at(context.workspace, params, shape);
  return with_storage(params.input.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    if constexpr (sizeof(Storage) < 8) {
      constexpr int kWide = kVectorLanes<Storage>;
      if (shape.lanes > 1 && shape.along_channels)
        return run_kernels<Storage, kWide, true>(params, shape, work, context);
      if (shape.lanes > 1) return run_kernels<Storage, kWide, false>(params, shape, work, context);
    }
    return run_kernels<Storage, 1, true>(params, shape, work, context);
  });
}

}  // namespace denoise_ext::cuda
