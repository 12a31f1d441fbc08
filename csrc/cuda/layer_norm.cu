// Normalisation over the channels of each pixel (see params/norm.h): one pass over memory.
//
// "channels": channels lie side by side, and neighbouring threads share a pixel. "columns": neighbouring
// threads take neighbouring pixels, and threads further apart share them. A thread keeps its values in
// registers from the mean to the result; beyond kHeld vectors it reads them again.
#include <algorithm>

#include "norm.cuh"
#include "norm_variants.h"

namespace denoise_ext::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = 2;  // per multiprocessor to leave registers for: 128 a thread
constexpr int kHeld = 8;
constexpr int kTogether = 4;  // vectors of a thread that are on their way at once, where channels suffice

// How the threads of a block lie.
struct Shape {
  int members;     // that share a pixel, or a vector of columns; a power of 2
  int64_t pixels;  // or vectors of columns, of the batch
};

// A thread's part of its pixel's values: vectors `first`, first + step, ... below `count`.
template <class Storage, int kLanes>
struct Values {
  using Acc = typename AccOf<Storage>::type;
  const Storage* from;
  int64_t pitch;  // from one vector to the next
  int first, step;
  int64_t count;
  Packed<Storage, kLanes> held[kHeld];

  __device__ __forceinline__ Packed<Storage, kLanes> load(int64_t i) const {
    return load_packed<Storage, kLanes>(from + i * pitch);
  }

  __device__ __forceinline__ void load_held() {
#pragma unroll
    for (int k = 0; k < kHeld; ++k)
      if (first + k * step < count) held[k] = load(first + k * step);
  }

  // f(values) for each vector.
  template <class F>
  __device__ __forceinline__ void for_each(const F& f) const {
    Acc x[kLanes];
#pragma unroll
    for (int k = 0; k < kHeld; ++k) {
      if (first + k * step >= count) break;
      unpack_lanes<Storage, kLanes>(held[k], x);
      f(x);
    }
    for (int64_t i = first + int64_t{kHeld} * step; i < count; i += step) {
      unpack_lanes<Storage, kLanes>(load(i), x);
      f(x);
    }
  }

  // f(i, values) for each vector i, which may write where it was read. Those held take turns as held[0], so
  // that the code stands here once.
  template <class F>
  __device__ __forceinline__ void take_each(const F& f) {
    const int64_t end = first + int64_t{kHeld} * step;
#pragma unroll 1
    for (int64_t i = first; i < count; i += step) {
      Acc x[kLanes];
      unpack_lanes<Storage, kLanes>(i < end ? held[0] : load(i), x);
      f(i, x);
#pragma unroll
      for (int k = 0; k + 1 < kHeld; ++k) held[k] = held[k + 1];
    }
  }
};

// The sum over the `members` neighbouring threads that share a pixel, for all of them.
template <class Acc>
__device__ __forceinline__ Acc sum_over_neighbours(Acc value, int members) {
  for (int offset = members / 2; offset > 0; offset /= 2)
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

template <class Storage, int kLanes>
__global__ void __launch_bounds__(kThreads, kBlocks)
    layer_norm_channels_kernel(LayerNorm2dParams p, Shape shape) {
  using Acc = typename AccOf<Storage>::type;
  const int64_t channels = p.input.size[1];
  const int thread = static_cast<int>(threadIdx.x), pixel = thread / shape.members;
  const int beside = kThreads / shape.members;
  const int64_t step = static_cast<int64_t>(gridDim.x) * beside;
  int64_t first = static_cast<int64_t>(blockIdx.x) * beside;
  PixelWalk walk(p.input.size[2], p.input.size[3], first + pixel, step);
  // All threads of a warp come along, for they add up together.
  for (; first < shape.pixels; first += step, walk.advance()) {
    const bool is_there = first + pixel < shape.pixels;
    Values<Storage, kLanes> values{element<const Storage>(p.input, walk.n, 0, walk.y, walk.x), kLanes,
                                   thread % shape.members, shape.members, is_there ? channels / kLanes : 0};
    values.load_held();
    Acc sum = 0, squares = 0;
    values.for_each([&](const Acc(&x)[kLanes]) {
#pragma unroll
      for (int j = 0; j < kLanes; ++j) sum += x[j];
    });
    const Acc mean = sum_over_neighbours(sum, shape.members) / static_cast<Acc>(channels);
    values.for_each([&](const Acc(&x)[kLanes]) {
#pragma unroll
      for (int j = 0; j < kLanes; ++j) squares += (x[j] - mean) * (x[j] - mean);
    });
    const Acc variance = sum_over_neighbours(squares, shape.members) / static_cast<Acc>(channels);
    const Acc factor = Acc(1) / sqrt(variance + static_cast<Acc>(p.eps));
    Storage* const to = element<Storage>(p.output, walk.n, 0, walk.y, walk.x);
    values.take_each([&](int64_t i, Acc(&x)[kLanes]) {
      const int64_t c = i * kLanes;
#pragma unroll
      for (int j = 0; j < kLanes; ++j)
        x[j] = (x[j] - mean) * factor * channel_term<Storage>(p.weight, c + j, Acc(1)) +
               channel_term<Storage>(p.bias, c + j, Acc(0));
      activate_lanes(x, p);
      store_lanes<Storage, kLanes>(to + c * p.output.stride[1], x);
    });
  }
}

// The sums over the threads that share a vector of columns, which are `beside` threads apart, for all of
// them.
template <class Acc, int kLanes>
__device__ __forceinline__ void sum_over_members(Acc (&shared)[kLanes][kThreads], Acc (&value)[kLanes],
                                                 int beside) {
  const int thread = static_cast<int>(threadIdx.x);
  __syncthreads();  // others may still read what is there
#pragma unroll
  for (int j = 0; j < kLanes; ++j) shared[j][thread] = value[j];
  for (int half = kThreads / 2; half >= beside; half /= 2) {
    __syncthreads();
    if (thread >= half) continue;
#pragma unroll
    for (int j = 0; j < kLanes; ++j) shared[j][thread] += shared[j][thread + half];
  }
  __syncthreads();
#pragma unroll
  for (int j = 0; j < kLanes; ++j) value[j] = shared[j][thread % beside];
}

template <class Storage, int kLanes>
__global__ void __launch_bounds__(kThreads, kBlocks)
    layer_norm_columns_kernel(LayerNorm2dParams p, Shape shape) {
  using Acc = typename AccOf<Storage>::type;
  __shared__ Acc shared[kLanes][kThreads];
  const int64_t channels = p.input.size[1];
  const int beside = kThreads / shape.members;
  const int column = static_cast<int>(threadIdx.x) % beside, member = static_cast<int>(threadIdx.x) / beside;
  const int64_t step = static_cast<int64_t>(gridDim.x) * beside;
  int64_t first = static_cast<int64_t>(blockIdx.x) * beside;
  PixelWalk walk(p.input.size[2], p.input.size[3] / kLanes, first + column, step);
  for (; first < shape.pixels; first += step, walk.advance()) {
    const bool is_there = first + column < shape.pixels;
    const int64_t x0 = int64_t{walk.x} * kLanes;
    Values<Storage, kLanes> values{element<const Storage>(p.input, walk.n, 0, walk.y, x0), p.input.stride[1],
                                   member, shape.members, is_there ? channels : 0};
    values.load_held();
    Acc mean[kLanes] = {}, factor[kLanes] = {};
    values.for_each([&](const Acc(&x)[kLanes]) {
#pragma unroll
      for (int j = 0; j < kLanes; ++j) mean[j] += x[j];
    });
    sum_over_members(shared, mean, beside);
#pragma unroll
    for (int j = 0; j < kLanes; ++j) mean[j] /= static_cast<Acc>(channels);
    values.for_each([&](const Acc(&x)[kLanes]) {
#pragma unroll
      for (int j = 0; j < kLanes; ++j) factor[j] += (x[j] - mean[j]) * (x[j] - mean[j]);
    });
    sum_over_members(shared, factor, beside);
#pragma unroll
    for (int j = 0; j < kLanes; ++j)
      factor[j] = Acc(1) / sqrt(factor[j] / static_cast<Acc>(channels) + static_cast<Acc>(p.eps));
    Storage* const to = element<Storage>(p.output, walk.n, 0, walk.y, x0);
    values.take_each([&](int64_t c, Acc(&x)[kLanes]) {
      const Acc weight = channel_term<Storage>(p.weight, c, Acc(1));
      const Acc bias = channel_term<Storage>(p.bias, c, Acc(0));
#pragma unroll
      for (int j = 0; j < kLanes; ++j) x[j] = (x[j] - mean[j]) * factor[j] * weight + bias;
      activate_lanes(x, p);
      store_lanes<Storage, kLanes>(to + c * p.output.stride[1], x);
    });
  }
}

// The fewest threads, a power of 2, that give each at most `each` of `values`.
int members_for(int64_t values, int64_t each, int most) {
  int members = 1;
  while (members < most && members * each < values) members *= 2;
  return members;
}

int64_t pixels_of(const Tensor4& t) {
  return t.size[0] * t.size[2] * t.size[3];
}

}  // namespace

int layer_norm2d_channels_launch(const LayerNorm2dParams& params, const LaunchContext& context) {
  const Tensor4& input = params.input;
  const bool vectors = input.dtype != DType::kFloat64 && both(params, has_wide_pixels);
  const int lanes = vectors ? vector_lanes(input.dtype) : 1;
  const Shape shape{members_for(input.size[1] / lanes, vectors ? kTogether : 1, kWarp), pixels_of(input)};
  const dim3 grid = grid_for(divide_up(shape.pixels, kThreads / shape.members), context.limits);
  return with_storage(input.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    if constexpr (sizeof(Storage) < 8) {
      if (vectors)
        return launch(layer_norm_channels_kernel<Storage, kVectorLanes<Storage>>, grid, dim3(kThreads), 0,
                      context.stream, params, shape);
    }
    return launch(layer_norm_channels_kernel<Storage, 1>, grid, dim3(kThreads), 0, context.stream, params,
                  shape);
  });
}

int layer_norm2d_columns_launch(const LayerNorm2dParams& given, const LaunchContext& context) {
  constexpr int kFewestBytes = 64;  // that neighbouring threads read together
  const LayerNorm2dParams params = with_long_rows(given);
  const Tensor4& input = params.input;
  const bool vectors = input.dtype != DType::kFloat64 && both(params, has_wide_rows);
  const int lanes = vectors ? vector_lanes(input.dtype) : 1;
  const int beside = kFewestBytes / static_cast<int>(lanes * element_bytes(input.dtype));
  const Shape shape{members_for(input.size[1], kHeld, kThreads / beside), pixels_of(input) / lanes};
  const dim3 grid = grid_for(divide_up(shape.pixels, kThreads / shape.members), context.limits);
  return with_storage(input.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    if constexpr (sizeof(Storage) < 8) {
      if (vectors)
        return launch(layer_norm_columns_kernel<Storage, kVectorLanes<Storage>>, grid, dim3(kThreads), 0,
                      context.stream, params, shape);
    }
    return launch(layer_norm_columns_kernel<Storage, 1>, grid, dim3(kThreads), 0, context.stream, params,
                  shape);
  });
}

}  // namespace denoise_ext::cuda
