// Recurrent fusion and its gradients (see params/motion.h): a thread per pixel, channel after channel.
#include "motion.cuh"
#include "motion_variants.h"

namespace denoise_ext::cuda {
namespace {

constexpr int kThreads = 256;

template <class Acc>
__device__ __forceinline__ Acc value_at(const Tensor4& t, int64_t n, int64_t c, int64_t y, int64_t x) {
  return load_pixel<Acc>(t.data, pixel_offset(t, n, c, y, x), t.dtype);
}
template <class Acc>
__device__ __forceinline__ void set_value(const Tensor4& t, int64_t n, int64_t c, int64_t y, int64_t x,
                                          Acc value) {
  store_pixel<Acc>(t.data, pixel_offset(t, n, c, y, x), t.dtype, value);
}

// The r x r pixels of a gate are beside one another as channels.
struct GatePlace {
  int64_t c, y, x;

  __device__ GatePlace(const RecurrentFuseParams& p, int64_t row, int64_t column) {
    const int64_t factor = p.input.size[3] / p.gate.size[3];
    c = row % factor * factor + column % factor;
    y = row / factor;
    x = column / factor;
  }
};

// What both directions begin with: the weight, 0 where nothing is fused.
template <class Acc>
struct FusePixel {
  Acc before, now, weight, fused_level;
  bool known, used;

  __device__ FusePixel(const RecurrentFuseParams& p, int64_t n, int64_t y, int64_t x) {
    const GatePlace at(p, y, x);
    before = value_at<Acc>(p.previous, n, 2 * p.input.size[1], y, x);
    now = value_at<Acc>(p.level, n, 0, y, x);
    known = before != Acc(0);
    used = known && now != Acc(0);
    weight = used ? value_at<Acc>(p.gate, n, at.c, at.y, at.x) : Acc(0);
    const Acc a = (Acc(1) - weight) * now, b = weight * before;
    fused_level = sqrt(a * a + b * b);
  }
};

template <class Acc>
__global__ void __launch_bounds__(kThreads) recurrent_fuse_kernel(RecurrentFuseParams p, int64_t count) {
  const int64_t channels = p.input.size[1], height = p.input.size[2], width = p.input.size[3];
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t n = i / (height * width), y = i / width % height, x = i % width;
    const FusePixel<Acc> pixel(p, n, y, x);
    for (int64_t c = 0; c < channels; ++c) {
      const Acc input = value_at<Acc>(p.input, n, c, y, x);
      const Acc last = value_at<Acc>(p.previous, n, c, y, x);
      const Acc fused = value_at<Acc>(p.previous, n, channels + c, y, x);
      set_value<Acc>(p.output, n, c, y, x, pixel.known ? last : input);
      set_value<Acc>(p.output, n, channels + c, y, x,
                     pixel.used ? input + pixel.weight * (fused - input) : input);
    }
    set_value<Acc>(p.output, n, 2 * channels, y, x, pixel.fused_level);
  }
}

template <class Acc>
__global__ void __launch_bounds__(kThreads)
    recurrent_fuse_grad_kernel(RecurrentFuseGradParams g, int64_t count) {
  const RecurrentFuseParams& p = g.forward;
  const int64_t channels = p.input.size[1], height = p.input.size[2], width = p.input.size[3];
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t n = i / (height * width), y = i / width % height, x = i % width;
    const FusePixel<Acc> pixel(p, n, y, x);
    const Acc w = pixel.weight, rest = Acc(1) - w, now = pixel.now, before = pixel.before;
    Acc grad_weight = 0;
    for (int64_t c = 0; c < channels; ++c) {
      const Acc grad_last = value_at<Acc>(g.grad_output, n, c, y, x);
      const Acc grad = value_at<Acc>(g.grad_output, n, channels + c, y, x);
      grad_weight +=
          grad * (value_at<Acc>(p.previous, n, channels + c, y, x) - value_at<Acc>(p.input, n, c, y, x));
      if (g.grad_input.data != nullptr)
        set_value<Acc>(g.grad_input, n, c, y, x, rest * grad + (pixel.known ? Acc(0) : grad_last));
      if (g.grad_previous.data == nullptr) continue;
      set_value<Acc>(g.grad_previous, n, c, y, x, pixel.known ? grad_last : Acc(0));
      set_value<Acc>(g.grad_previous, n, channels + c, y, x, w * grad);
    }
    const Acc grad_level = value_at<Acc>(g.grad_output, n, 2 * channels, y, x);
    // A level of 0 has no slope.
    const Acc slope = pixel.fused_level > Acc(0) ? grad_level / pixel.fused_level : Acc(0);
    grad_weight += slope * (w * before * before - rest * now * now);
    if (g.grad_previous.data != nullptr)
      set_value<Acc>(g.grad_previous, n, 2 * channels, y, x, slope * w * w * before);
    if (g.grad_level.data != nullptr) set_value<Acc>(g.grad_level, n, 0, y, x, slope * rest * rest * now);
    if (g.grad_gate.data != nullptr) {
      const GatePlace at(p, y, x);
      set_value<Acc>(g.grad_gate, n, at.c, at.y, at.x, pixel.used ? grad_weight : Acc(0));
    }
  }
}

int64_t pixels_of(const Tensor4& t) {
  return t.size[0] * t.size[2] * t.size[3];
}

}  // namespace

int recurrent_fuse_launch(const RecurrentFuseParams& params, const LaunchContext& context) {
  const int64_t count = pixels_of(params.input);
  const dim3 grid = grid_for(count, kThreads, context.limits), block(kThreads);
  if (params.input.dtype == DType::kFloat64)
    return launch(recurrent_fuse_kernel<double>, grid, block, 0, context.stream, params, count);
  return launch(recurrent_fuse_kernel<float>, grid, block, 0, context.stream, params, count);
}

int recurrent_fuse_grad_launch(const RecurrentFuseGradParams& params, const LaunchContext& context) {
  const int64_t count = pixels_of(params.forward.input);
  const dim3 grid = grid_for(count, kThreads, context.limits), block(kThreads);
  if (params.forward.input.dtype == DType::kFloat64)
    return launch(recurrent_fuse_grad_kernel<double>, grid, block, 0, context.stream, params, count);
  return launch(recurrent_fuse_grad_kernel<float>, grid, block, 0, context.stream, params, count);
}

}  // namespace denoise_ext::cuda
