// The gradient of an activation, with the channel sums for bias and PReLU: a first kernel writes the
// gradient and one partial sum per (part of the pixels, channel), a second adds the parts in order.
#include <algorithm>

#include "common.cuh"
#include "primitives.cuh"

namespace denoise_ext::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kResidentBlocks = 8;  // of a multiprocessor at a time
constexpr int64_t kMostParts = 1 << 12;

// d activation / d its input, from what the forward saved: the output, for PReLU the input.
template <class Acc>
__device__ __forceinline__ Acc activation_slope(Activation activation, Acc saved, Acc slope) {
  switch (activation) {
    case Activation::kRelu: return saved > Acc(0) ? Acc(1) : Acc(0);
    case Activation::kLeakyRelu:
    case Activation::kPrelu: return saved > Acc(0) ? Acc(1) : slope;
    case Activation::kSigmoid: return saved * (Acc(1) - saved);
    case Activation::kTanh: return Acc(1) - saved * saved;
    default: return Acc(1);
  }
}

// A block takes kChannels channels (the lanes that are neighbours in memory: 32 where channels are
// innermost, 1 where columns are) and every parts-th pixel group.
template <class Storage, class Acc, int kChannels>
__global__ void __launch_bounds__(kThreads)
    activation_grad_kernel(ActivationGradParams p, double* partials, int parts) {
  constexpr int kPixels = kThreads / kChannels;
  __shared__ double bias_sums[kThreads], prelu_sums[kThreads];
  const int64_t channels = p.grad_output.size[1], cols = p.grad_output.size[3];
  const int64_t plane = p.grad_output.size[2] * cols, pixels = p.grad_output.size[0] * plane;
  const int64_t c = static_cast<int64_t>(blockIdx.y) * kChannels + threadIdx.x % kChannels;
  const bool inside = c < channels;
  const bool is_prelu = p.activation == Activation::kPrelu;
  Acc slope = static_cast<Acc>(p.negative_slope);
  if (inside && is_prelu) slope = channel_value<Storage, Acc>(p.prelu_weight, c);
  double bias_sum = 0, prelu_sum = 0;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kPixels + threadIdx.x / kChannels; inside && i < pixels;
       i += static_cast<int64_t>(parts) * kPixels) {
    const int64_t n = i / plane, y = i % plane / cols, x = i % cols;
    const Acc g = to_acc<Acc>(*element<Storage>(p.grad_output, n, c, y, x));
    Acc value = g;
    if (p.activation != Activation::kNone) {
      const Acc saved = to_acc<Acc>(*element<Storage>(p.saved, n, c, y, x));
      value = g * activation_slope(p.activation, saved, slope);
      if (is_prelu && !(saved > Acc(0))) prelu_sum += static_cast<double>(g * saved);
    }
    bias_sum += static_cast<double>(value);
    if (p.grad_input.data != nullptr)
      *element<Storage>(p.grad_input, n, c, y, x) = FromAcc<Storage>::convert(value);
  }
  if (partials == nullptr) return;
  bias_sums[threadIdx.x] = bias_sum;
  prelu_sums[threadIdx.x] = prelu_sum;
  for (int half = kThreads / 2; half >= kChannels; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) {
      bias_sums[threadIdx.x] += bias_sums[threadIdx.x + half];
      prelu_sums[threadIdx.x] += prelu_sums[threadIdx.x + half];
    }
  }
  if (threadIdx.x < kChannels && inside) {
    double* to = partials + static_cast<int64_t>(blockIdx.x) * 2 * channels;  // [part][2][K]
    to[c] = bias_sums[threadIdx.x];
    to[channels + c] = prelu_sums[threadIdx.x];
  }
}

__global__ void __launch_bounds__(kThreads)
    sum_parts_kernel(const double* partials, double* sums, int64_t count, int parts) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  double sum = sums[i];
  for (int part = 0; part < parts; ++part) sum += partials[part * count + i];
  sums[i] = sum;
}

// Channels of a block. Lanes along a single channel would have nothing to do but one of them.
int block_channels(const ActivationGradParams& p) {
  return p.grad_output.stride[1] == 1 && p.grad_output.size[1] > 1 ? 32 : 1;
}

// Enough parts of the pixels to fill the device, each with a pixel for every thread.
int parts_of(const ActivationGradParams& p, const DeviceLimits& limits) {
  const int64_t* size = p.grad_output.size;
  const int64_t lanes = block_channels(p), blocks = (size[1] + lanes - 1) / lanes;
  const int64_t pixels = size[0] * size[2] * size[3], at_once = kThreads / lanes;
  const int64_t wanted = (kResidentBlocks * limits.multiprocessors + blocks - 1) / blocks;
  return static_cast<int>(std::min({wanted, (pixels + at_once - 1) / at_once, kMostParts}));
}

}  // namespace

int64_t workspace_bytes(const ActivationGradParams& params, const DeviceLimits& limits) {
  if (params.sums == nullptr) return 0;
  return 2 * params.grad_output.size[1] * parts_of(params, limits) * static_cast<int64_t>(sizeof(double));
}

int run(const ActivationGradParams& params, const LaunchContext& context) {
  const int parts = parts_of(params, context.limits);
  const int64_t channels = params.grad_output.size[1];
  double* partials = params.sums == nullptr ? nullptr : static_cast<double*>(context.workspace);
  const auto stream = static_cast<cudaStream_t>(context.stream);
  const int code = with_storage(params.grad_output.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    using Acc = typename AccOf<Storage>::type;
    const auto grid = [&](int64_t lanes) {
      return dim3(static_cast<unsigned>(parts), static_cast<unsigned>((channels + lanes - 1) / lanes));
    };
    if (block_channels(params) == 32)
      return launch(activation_grad_kernel<Storage, Acc, 32>, grid(32), dim3(kThreads), 0, stream, params,
                    partials, parts);
    return launch(activation_grad_kernel<Storage, Acc, 1>, grid(1), dim3(kThreads), 0, stream, params,
                  partials, parts);
  });
  if (code != 0 || partials == nullptr) return code;
  return launch(sum_parts_kernel, dim3(static_cast<unsigned>((2 * channels + kThreads - 1) / kThreads)),
                dim3(kThreads), 0, stream, partials, params.sums, 2 * channels, parts);
}

}  // namespace denoise_ext::cuda
