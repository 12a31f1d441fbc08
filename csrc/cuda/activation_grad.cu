// The gradient of an activation, with the channel sums for bias and PReLU: a first kernel writes the
// gradient and one partial sum per (part of the pixels, channel), a second adds the parts in order.
//
// A thread takes a vector of 16 bytes at a time where all tensors have them: of neighbouring channels, or of
// neighbouring columns of one channel. Else it takes single elements.
#include <algorithm>

#include "common.cuh"
#include "parts.cuh"
#include "primitives.cuh"
#include "vectors.cuh"
#include "wide_rows.h"

namespace denoise_ext::cuda {
namespace {

constexpr int kThreads = 256;
// Blocks per multiprocessor to leave registers for: 64 a thread, or 128 where a thread has the sums of 8
// channels.
constexpr int kBlocks = 4, kChannelBlocks = 2;
constexpr int64_t kMostParts = 1 << 12;

// How the threads of a block lie.
struct Shape {
  int lanes;            // elements of a thread's vector
  bool along_channels;  // of neighbouring channels, not columns
  int threads;          // beside each other along the channels, a power of 2; the others take other pixels
  int64_t blocks;       // along the channels
  int64_t pixels;       // or vectors of columns: what the parts divide
  int parts;
};

// d activation / d its input where that is a factor, from the output.
template <class Acc>
__device__ __forceinline__ Acc activation_factor(Activation activation, Acc saved) {
  return activation == Activation::kSigmoid ? saved * (Acc(1) - saved) : Acc(1) - saved * saved;
}

// The gradient before the activation, from what the forward saved: the output, for PReLU the input. The slope
// is ReLU's 0 where the activation is ReLU, which selects as torch does (common.cuh).
template <class Acc>
__device__ __forceinline__ Acc before_activation(Activation activation, Acc g, Acc saved, Acc slope) {
  switch (activation) {
    case Activation::kNone: return g;
    case Activation::kRelu: return masked(g, saved, Acc(0));
    case Activation::kLeakyRelu:
    case Activation::kPrelu: return saved > Acc(0) ? g : g * slope;
    default: return g * activation_factor(activation, saved);
  }
}

template <class Storage, int kLanes, class Acc>
__device__ __forceinline__ void load_lanes(const Storage* from, Acc (&x)[kLanes]) {
  if constexpr (kLanes == 1) {
    x[0] = to_acc<Acc>(*from);
  } else {
    unpack<Storage>(__ldg(reinterpret_cast<const uint4*>(from)), x);
  }
}

template <class Storage, int kLanes, class Acc>
__device__ __forceinline__ void store_lanes(Storage* to, const Acc (&x)[kLanes]) {
  if constexpr (kLanes == 1) {
    *to = FromAcc<Storage>::convert(x[0]);
  } else {
    __stwb(reinterpret_cast<uint4*>(to), pack<Storage>(x));  // a plain store the compiler divides
  }
}

// The sums of the block's threads that have the same channels, in the first `threads` of them.
__device__ __forceinline__ double sum_over_pixels(double* sums, double value, int threads) {
  const int thread = static_cast<int>(threadIdx.x);
  __syncthreads();  // others may still read what is there
  sums[thread] = value;
  for (int half = kThreads / 2; half >= threads; half /= 2) {
    __syncthreads();
    if (thread < half) sums[thread] += sums[thread + half];
  }
  return sums[thread];
}

template <class Storage, int kLanes, bool kAlongChannels>
__global__ void __launch_bounds__(kThreads, kAlongChannels&& kLanes == 8 ? kChannelBlocks : kBlocks)
    activation_grad_kernel(ActivationGradParams p, Shape shape, double* partials) {
  using Acc = typename AccOf<Storage>::type;
  constexpr int kChannels = kAlongChannels ? kLanes : 1, kColumns = kAlongChannels ? 1 : kLanes;
  __shared__ double shared[kThreads];
  const int64_t channels = p.grad_output.size[1];
  const int thread = static_cast<int>(threadIdx.x), part = static_cast<int>(blockIdx.x % shape.parts);
  const int64_t c = (blockIdx.x / shape.parts * shape.threads + thread % shape.threads) * kChannels;
  const bool is_prelu = p.activation == Activation::kPrelu, has_sums = partials != nullptr;
  Acc slope[kChannels];
#pragma unroll
  for (int i = 0; i < kChannels; ++i)
    slope[i] = is_prelu && c < channels ? channel_value<Storage, Acc>(p.prelu_weight, c + i)
                                        : static_cast<Acc>(p.negative_slope);

  double bias_sum[kChannels] = {}, prelu_sum[kChannels] = {};
  const int64_t at_once = kThreads / shape.threads, step = shape.parts * at_once;
  const int64_t first = part * at_once + thread / shape.threads;
  PixelWalk walk(p.grad_output.size[2], p.grad_output.size[3] / kColumns, first, step);
  for (int64_t i = first; c < channels && i < shape.pixels; i += step, walk.advance()) {
    const int64_t x = int64_t{walk.x} * kColumns;
    Acc g[kLanes], saved[kLanes] = {}, value[kLanes];
    load_lanes<Storage, kLanes>(element<const Storage>(p.grad_output, walk.n, c, walk.y, x), g);
    if (p.activation != Activation::kNone)
      load_lanes<Storage, kLanes>(element<const Storage>(p.saved, walk.n, c, walk.y, x), saved);
#pragma unroll
    for (int j = 0; j < kLanes; ++j) {
      const int channel = kAlongChannels ? j : 0;
      value[j] = before_activation(p.activation, g[j], saved[j], slope[channel]);
      if (!has_sums) continue;
      bias_sum[channel] += static_cast<double>(value[j]);
      if (is_prelu && !(saved[j] > Acc(0))) prelu_sum[channel] += static_cast<double>(g[j] * saved[j]);
    }
    if (p.grad_input.data != nullptr)
      store_lanes<Storage, kLanes>(element<Storage>(p.grad_input, walk.n, c, walk.y, x), value);
  }
  if (!has_sums) return;
  double* const to = partials + static_cast<int64_t>(part) * 2 * channels;  // [part][2][K]
#pragma unroll
  for (int i = 0; i < kChannels; ++i) {
    const double bias = sum_over_pixels(shared, bias_sum[i], shape.threads);
    const double prelu = sum_over_pixels(shared, prelu_sum[i], shape.threads);
    if (thread >= shape.threads || c >= channels) continue;
    to[c + i] = bias;
    to[channels + c + i] = prelu;
  }
}

__global__ void __launch_bounds__(kSumThreads)
    sum_parts_kernel(const double* partials, double* sums, int64_t count, int parts) {
  const PartsSum<double> total(partials, count, parts);
  if (total.is_mine) sums[total.index] += total.sum;
}

template <class Condition>
bool all_tensors(const ActivationGradParams& p, const Condition& condition) {
  return condition(p.grad_output) && (p.activation == Activation::kNone || condition(p.saved)) &&
         (p.grad_input.data == nullptr || condition(p.grad_input));
}

Shape shape_of(const ActivationGradParams& p, const DeviceLimits& limits) {
  const int64_t* size = p.grad_output.size;
  const bool vectors = p.grad_output.dtype != DType::kFloat64;
  const int wide = static_cast<int>(16 / element_bytes(p.grad_output.dtype));
  Shape s{};
  s.lanes = 1;
  s.along_channels = true;
  // Lanes along a single channel would have nothing to do but one of them.
  s.threads = p.grad_output.stride[1] == 1 && size[1] > 1 ? 32 : 1;
  if (vectors && all_tensors(p, has_wide_pixels)) {
    s.lanes = wide;
    s.threads = 8;
    while (s.threads > 1 && s.threads / 2 * wide >= size[1]) s.threads /= 2;
  } else if (vectors && all_tensors(p, has_wide_rows)) {
    s.lanes = wide;
    s.along_channels = false;
    s.threads = 1;
  }
  const int64_t channels = int64_t{s.threads} * (s.along_channels ? s.lanes : 1);
  s.blocks = divide_up(size[1], channels);
  s.pixels = size[0] * size[2] * (s.along_channels ? size[3] : size[3] / s.lanes);
  // Enough parts to fill the device, each with a pixel for every thread.
  const int64_t wanted = divide_up(kBlocks * limits.multiprocessors, s.blocks);
  s.parts = static_cast<int>(
      std::max<int64_t>(1, std::min({wanted, divide_up(s.pixels * s.threads, kThreads), kMostParts})));
  return s;
}

template <class Storage>
int run_kernel(const ActivationGradParams& p, const Shape& shape, double* partials, void* stream) {
  const dim3 grid(static_cast<unsigned>(shape.blocks * shape.parts)), block(kThreads);
  if constexpr (sizeof(Storage) < 8) {
    if (shape.lanes > 1 && shape.along_channels)
      return launch(activation_grad_kernel<Storage, kVectorLanes<Storage>, true>, grid, block, 0, stream, p,
                    shape, partials);
    if (shape.lanes > 1)
      return launch(activation_grad_kernel<Storage, kVectorLanes<Storage>, false>, grid, block, 0, stream, p,
                    shape, partials);
  }
  return launch(activation_grad_kernel<Storage, 1, true>, grid, block, 0, stream, p, shape, partials);
}

}  // namespace

int64_t workspace_bytes(const ActivationGradParams& params, const DeviceLimits& limits) {
  if (params.sums == nullptr) return 0;
  return 2 * params.grad_output.size[1] * shape_of(params, limits).parts *
         static_cast<int64_t>(sizeof(double));
}

int run(const ActivationGradParams& params, const LaunchContext& context) {
  const Shape shape = shape_of(params, context.limits);
  double* partials = params.sums == nullptr ? nullptr : static_cast<double*>(context.workspace);
  const int code = with_storage(params.grad_output.dtype, [&](auto storage) {
    return run_kernel<decltype(storage)>(params, shape, partials, context.stream);
  });
  if (code != 0 || partials == nullptr) return code;
  const int64_t values = 2 * params.grad_output.size[1];
  return launch(sum_parts_kernel, dim3(sum_blocks(values)), dim3(kSumThreads), 0, context.stream, partials,
                params.sums, values, shape.parts);
}

}  // namespace denoise_ext::cuda
