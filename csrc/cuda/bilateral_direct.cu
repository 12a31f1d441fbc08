// The joint bilateral filter and its gradients, one thread per pixel: any radius, number of channels, dtype
// and layout. Always correct, never the fast one. Also the passes that all variants of the gradients end
// with (see bilateral_grad.cuh).
#include "bilateral_grad.cuh"
#include "bilateral_variants.h"
#include "common.cuh"
#include "primitives.cuh"

namespace denoise_ext::cuda {
namespace {

constexpr int kThreads = 256;
// Images are taken in groups whose buffers stay below this many elements (256 MiB of float), or one by one.
constexpr int64_t kGroupElements = int64_t{1} << 26;

template <class Acc>
__global__ void __launch_bounds__(kThreads, 2) bilateral_direct_kernel(BilateralParams p, int64_t pixels) {
  const int64_t rows = p.input.size[2], cols = p.input.size[3], channels = p.input.size[1];
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < pixels;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t x = i % cols, y = i / cols % rows, n = i / (cols * rows);
    const BilateralScales<Acc> scales = bilateral_scales<Acc>(p, n);
    for (int64_t first = 0; first < channels; first += kChannelChunk) {
      Acc sums[kChannelChunk] = {};
      const Acc total = sum_window(p, scales, n, y, x, first, channels, sums);
#pragma unroll
      for (int c = 0; c < kChannelChunk; ++c)
        if (first + c < channels)
          store_pixel<Acc>(p.output.data, pixel_offset(p.output, n, first + c, y, x), p.output.dtype,
                           sums[c] / total);
    }
  }
}

// Pass 1, a thread per pixel; blockIdx.y: the image of the group.
template <class Acc>
__global__ void __launch_bounds__(kThreads, 2) bilateral_normalise_kernel(BilateralGradWork w) {
  const BilateralParams& p = w.params.forward;
  const int64_t cols = p.input.size[3], plane = p.input.size[2] * cols, channels = p.input.size[1];
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, n = w.first + blockIdx.y;
  if (i >= plane) return;
  const int64_t y = i / cols, x = i % cols;
  const BilateralScales<Acc> scales = bilateral_scales<Acc>(p, n);
  // A 16-bit output is too coarse: A is the small difference between a neighbour and the mean.
  const bool recompute = p.output.dtype == DType::kFloat16 || p.output.dtype == DType::kBFloat16;
  const Tensor4& grad = w.params.grad_output;
  Acc* scaled = static_cast<Acc*>(w.scaled) + blockIdx.y * (channels + 1) * plane + i;
  Acc dot = 0, total = 0;
  for (int64_t first = 0; first < channels; first += kChannelChunk) {
    Acc sums[kChannelChunk] = {};
    if (recompute || first == 0)
      total = sum_window(p, scales, n, y, x, first, recompute ? channels : int64_t{0}, sums);
#pragma unroll
    for (int k = 0; k < kChannelChunk; ++k) {
      const int64_t c = first + k;
      if (c >= channels) break;
      const Acc mean =
          recompute ? sums[k] / total
                    : load_pixel<Acc>(p.output.data, pixel_offset(p.output, n, c, y, x), p.output.dtype);
      const Acc value = load_pixel<Acc>(grad.data, pixel_offset(grad, n, c, y, x), grad.dtype) / total;
      scaled[c * plane] = value;
      dot += value * mean;
    }
  }
  scaled[channels * plane] = dot;
}

// A position z around or in the image.
template <class Acc>
struct Gather {
  int64_t n, y, x;
  Position source;
  const Acc* scaled;  // of its image
};

// Channel c of G / D (c = C: B) at a position; zero outside of the image.
template <class Acc>
__device__ __forceinline__ Acc scaled_at(const BilateralParams& p, const Acc* scaled, int64_t c, int64_t y,
                                         int64_t x) {
  const int64_t rows = p.input.size[2], cols = p.input.size[3];
  if (y < 0 || x < 0 || y >= rows || x >= cols) return 0;
  return scaled[(c * rows + y) * cols + x];
}

template <class Acc>
struct GatherSums {
  Acc input[kChannelChunk], guidance[kChannelChunk];  // of channels first .. first + 3
  Acc color, y, x;
};

// What the neighbour at (dy, dx) adds to z. Of the gradient of the guidance -2 color_scale is left out.
template <class Acc>
__device__ __forceinline__ void add_neighbour(const BilateralGradWork& w, const Gather<Acc>& z, int dy,
                                              int dx, const BilateralScales<Acc>& scales, int64_t first,
                                              GatherSums<Acc>& sums) {
  const BilateralParams& p = w.params.forward;
  const int64_t channels = p.input.size[1], guides = p.guidance.size[1], ty = z.y + dy, tx = z.x + dx;
  const Position t = source_of(p, ty, tx);
  const Acc exponent = color_exponent(p, z.n, z.source, t, scales.color);
  const Acc weight = fast_exp(-(space_exponent(dy, scales.y) + space_exponent(dx, scales.x)) - exponent);
#pragma unroll
  for (int k = 0; k < kChannelChunk; ++k)
    if (first + k < channels) sums.input[k] += weight * scaled_at(p, z.scaled, first + k, ty, tx);
  if (w.grad_guidance == nullptr && w.partials == nullptr) return;
  Acc outward = -scaled_at(p, z.scaled, channels, z.y, z.x),
      inward = -scaled_at(p, z.scaled, channels, ty, tx);
#pragma unroll 1
  for (int64_t c = 0; c < channels; ++c) {
    outward += scaled_at(p, z.scaled, c, z.y, z.x) * pixel_or_zero<Acc>(p.input, z.n, c, t.y, t.x);
    inward += scaled_at(p, z.scaled, c, ty, tx) * pixel_or_zero<Acc>(p.input, z.n, c, z.source.y, z.source.x);
  }
  outward *= weight;
  sums.color += outward * exponent;
  sums.y += outward * static_cast<Acc>(dy * dy);
  sums.x += outward * static_cast<Acc>(dx * dx);
  Acc factor = outward + inward * weight;
  const bool l1 = p.distance == ColorDistance::kL1 && guides > 1;
  if (l1) factor *= sqrt(exponent);  // distance times scale
#pragma unroll
  for (int k = 0; k < kChannelChunk; ++k) {
    if (first + k >= guides) break;
    const Acc difference = pixel_or_zero<Acc>(p.guidance, z.n, first + k, z.source.y, z.source.x) -
                           pixel_or_zero<Acc>(p.guidance, z.n, first + k, t.y, t.x);
    const Acc sign = difference > Acc(0) ? Acc(1) : (difference < Acc(0) ? Acc(-1) : Acc(0));
    sums.guidance[k] += factor * (l1 ? sign : difference * scales.color);
  }
}

// The neighbours on one axis that count for `position`: all of the window for a position inside of the
// image. One outside only collects from neighbours inside, and the window can be far larger than the image.
__device__ __forceinline__ int first_offset(int64_t position, int radius, bool inside) {
  return inside || position > radius ? -radius : static_cast<int>(-position);
}
__device__ __forceinline__ int last_offset(int64_t position, int64_t size, int radius, bool inside) {
  const int64_t last = size - 1 - position;
  return inside || last > radius ? radius : static_cast<int>(last);
}

// Pass 2, a thread per position of the enlarged image; blockIdx.y: the image of the group.
template <class Acc>
__global__ void __launch_bounds__(kThreads, 2) bilateral_gather_kernel(BilateralGradWork w) {
  __shared__ double block_sums[kThreads];
  const BilateralParams& p = w.params.forward;
  const int64_t channels = p.input.size[1], guides = p.guidance.size[1];
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, plane = w.rows * w.cols;
  const int radius_y = static_cast<int>(p.kernel_size[0] / 2);
  double color = 0, space_y = 0, space_x = 0;
  if (i < plane) {
    Gather<Acc> z{
        w.first + blockIdx.y, i / w.cols - radius_y, i % w.cols - p.kernel_size[1] / 2, {}, nullptr};
    z.source = source_of(p, z.y, z.x);
    z.scaled =
        static_cast<const Acc*>(w.scaled) + blockIdx.y * (channels + 1) * p.input.size[2] * p.input.size[3];
    const bool inside = z.y >= 0 && z.x >= 0 && z.y < p.input.size[2] && z.x < p.input.size[3];
    const BilateralScales<Acc> scales = bilateral_scales<Acc>(p, z.n);
    Acc* grad_input = static_cast<Acc*>(w.grad_input) + blockIdx.y * channels * plane + i;
    Acc* grad_guidance = static_cast<Acc*>(w.grad_guidance) + blockIdx.y * guides * plane + i;
    const int64_t most = channels > guides ? channels : guides;
    for (int64_t first = 0; first < most; first += kChannelChunk) {
      GatherSums<Acc> sums{};
      const int last_dy = last_offset(z.y, p.input.size[2], radius_y, inside);
      for (int dy = first_offset(z.y, radius_y, inside); dy <= last_dy; ++dy) {
        const int extent = window_extent(p, dy), last_dx = last_offset(z.x, p.input.size[3], extent, inside);
#pragma unroll 1
        for (int dx = first_offset(z.x, extent, inside); dx <= last_dx; ++dx)
          add_neighbour(w, z, dy, dx, scales, first, sums);
      }
#pragma unroll
      for (int k = 0; k < kChannelChunk; ++k) {
        if (w.grad_input != nullptr && first + k < channels) grad_input[(first + k) * plane] = sums.input[k];
        if (w.grad_guidance != nullptr && first + k < guides)
          grad_guidance[(first + k) * plane] = sums.guidance[k] * (Acc(-2) * scales.color);
      }
      if (first == 0) {
        color = static_cast<double>(sums.color);
        space_y = static_cast<double>(sums.y);
        space_x = static_cast<double>(sums.x);
      }
    }
  }
  if (w.partials == nullptr) return;
  double* to = w.partials + blockIdx.y * 3 * w.blocks + blockIdx.x;
  color = block_sum(color, block_sums);
  space_y = block_sum(space_y, block_sums);
  space_x = block_sum(space_x, block_sums);
  if (threadIdx.x != 0) return;
  to[0] = color;
  to[w.blocks] = space_y;
  to[2 * w.blocks] = space_x;
}

// Adds up the values at the positions of one enlarged row that are read from column x.
template <class Acc>
__device__ __forceinline__ Acc fold_row(const Acc* row, int64_t x, int64_t cols, int64_t radius,
                                        Border border) {
  // No farther than this from an edge, positions outside are read from x.
  const bool inside = x > radius && x < cols - 1 - radius && border != Border::kCircular;
  const int64_t reach = inside ? 0 : radius;
  Acc sum = row[x + radius];
#pragma unroll 1
  for (int64_t side = -reach; side <= reach; ++side) {
    const int64_t position = side < 0 ? side : cols - 1 + side;
    if (side != 0 && border_index(position, cols, border) == x) sum += row[radius + position];
  }
  return sum;
}

// Pass 3, a thread per pixel; blockIdx.y: channel and image of the group.
template <class Acc>
__global__ void __launch_bounds__(kThreads, 2)
    bilateral_fold_kernel(BilateralGradWork w, const Acc* from, Tensor4 to) {
  const BilateralParams& p = w.params.forward;
  const int64_t rows = to.size[2], cols = to.size[3], channels = to.size[1];
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= rows * cols) return;
  const int64_t y = i / cols, x = i % cols, radius_y = p.kernel_size[0] / 2, radius_x = p.kernel_size[1] / 2;
  const bool inside = y > radius_y && y < rows - 1 - radius_y && p.border != Border::kCircular;
  const int64_t reach = inside ? 0 : radius_y;
  for (int64_t plane = blockIdx.y; plane < w.images * channels; plane += gridDim.y) {
    const Acc* image = from + plane * w.rows * w.cols;
    Acc sum = 0;
#pragma unroll 1
    for (int64_t side = -reach; side <= reach; ++side) {
      const int64_t position = side < 0 ? side : (side > 0 ? rows - 1 + side : y);
      if (border_index(position, rows, p.border) == y)
        sum += fold_row(image + (position + radius_y) * w.cols, x, cols, radius_x, p.border);
    }
    store_pixel<Acc>(to.data, pixel_offset(to, w.first + plane / channels, plane % channels, y, x), to.dtype,
                     sum);
  }
}

// One block: adds the group's partial sums to the sigmas' gradients, image by image.
__global__ void __launch_bounds__(kThreads) bilateral_sigma_kernel(BilateralGradWork w) {
  __shared__ double block_sums[kThreads];
  const BilateralParams& p = w.params.forward;
  for (int64_t image = 0; image < w.images; ++image) {
    const int64_t n = w.first + image;
    for (int kind = 0; kind < 3; ++kind) {
      double sum = 0;
      for (int64_t i = threadIdx.x; i < w.blocks; i += kThreads)
        sum += w.partials[(image * 3 + kind) * w.blocks + i];
      sum = block_sum(sum, block_sums);
      if (threadIdx.x != 0) continue;
      if (kind == 0) {  // d^2 / sigma^3
        const int64_t at = p.sigma_color.size == 1 ? 0 : n;
        if (w.params.grad_sigma_color != nullptr)
          w.params.grad_sigma_color[at] += 2 * sum / sigma_value(p.sigma_color, p.sigma_color_value, at);
      } else if (w.params.grad_sigma_space != nullptr && sum != 0) {
        // dy^2 / sigma_y^3, dx^2 / sigma_x^3; where sigma^3 underflows, so did every weight off the centre.
        const int64_t at = (p.sigma_space.size == 2 ? 0 : 2 * n) + kind - 1;
        const double sigma =
            sigma_value(p.sigma_space, kind == 1 ? p.sigma_space_row[0] : p.sigma_space_row[1], at);
        w.params.grad_sigma_space[at] += sum / sigma / sigma / sigma;
      }
    }
  }
}

// Cuts the batch into groups and the workspace into buffers; returns its bytes.
int64_t place_buffers(const BilateralGradParams& params, const BilateralGradPasses& passes, void* memory,
                      BilateralGradWork& w) {
  const Tensor4 &input = params.forward.input, &guidance = params.forward.guidance;
  w.params = params;
  w.rows = input.size[2] + 2 * (params.forward.kernel_size[0] / 2);
  w.cols = input.size[3] + 2 * (params.forward.kernel_size[1] / 2);
  w.blocks = passes.blocks(w);
  const int64_t element = input.dtype == DType::kFloat64 ? 8 : 4, enlarged = w.rows * w.cols;
  const int64_t scaled = (input.size[1] + 1) * input.size[2] * input.size[3];
  const int64_t grad_input = params.grad_input.data != nullptr ? input.size[1] * enlarged : 0;
  const int64_t grad_guidance = params.grad_guidance.data != nullptr ? guidance.size[1] * enlarged : 0;
  const int64_t per_image = scaled + grad_input + grad_guidance, fit = kGroupElements / per_image;
  constexpr int64_t kMostImages = 65535;  // of a grid along y
  w.images = fit < 1 ? 1 : (fit < kMostImages ? fit : kMostImages);
  if (w.images > input.size[0]) w.images = input.size[0];
  int64_t used = 0;
  const auto take = [&](int64_t bytes) {
    void* const at = memory == nullptr || bytes == 0 ? nullptr : static_cast<char*>(memory) + used;
    used += (bytes + 255) / 256 * 256;
    return at;
  };
  w.scaled = take(w.images * scaled * element);
  w.grad_input = take(w.images * grad_input * element);
  w.grad_guidance = take(w.images * grad_guidance * element);
  const bool sigmas = params.grad_sigma_color != nullptr || params.grad_sigma_space != nullptr;
  w.partials = static_cast<double*>(take(sigmas ? w.images * 3 * w.blocks * 8 : 0));
  return used;
}

template <class Acc>
int launch_fold(const BilateralGradWork& w, const void* from, const Tensor4& to, void* stream) {
  constexpr int64_t kMost = 65535;
  const int64_t planes = w.images * to.size[1], blocks = (to.size[2] * to.size[3] + kThreads - 1) / kThreads;
  return launch(bilateral_fold_kernel<Acc>,
                dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(planes < kMost ? planes : kMost)),
                dim3(kThreads), 0, stream, w, static_cast<const Acc*>(from), to);
}

template <class Acc>
int launch_last_passes(const BilateralGradWork& w, void* stream) {
  int code = 0;
  if (w.grad_input != nullptr) code = launch_fold<Acc>(w, w.grad_input, w.params.grad_input, stream);
  if (code == 0 && w.grad_guidance != nullptr)
    code = launch_fold<Acc>(w, w.grad_guidance, w.params.grad_guidance, stream);
  if (code == 0 && w.partials != nullptr)
    code = launch(bilateral_sigma_kernel, dim3(1), dim3(kThreads), 0, stream, w);
  return code;
}

int64_t direct_blocks(const BilateralGradWork& w) {
  return (w.rows * w.cols + kThreads - 1) / kThreads;
}

template <class Acc>
int launch_first_passes(const BilateralGradWork& w, void* stream) {
  const Tensor4& input = w.params.forward.input;
  const int64_t blocks = (input.size[2] * input.size[3] + kThreads - 1) / kThreads;
  const unsigned images = static_cast<unsigned>(w.images);
  const int code = launch(bilateral_normalise_kernel<Acc>, dim3(static_cast<unsigned>(blocks), images),
                          dim3(kThreads), 0, stream, w);
  if (code != 0) return code;
  return launch(bilateral_gather_kernel<Acc>, dim3(static_cast<unsigned>(w.blocks), images), dim3(kThreads),
                0, stream, w);
}

int normalise_and_gather(const BilateralGradWork& w, void* stream) {
  return w.params.forward.input.dtype == DType::kFloat64 ? launch_first_passes<double>(w, stream)
                                                         : launch_first_passes<float>(w, stream);
}

constexpr BilateralGradPasses kPasses{direct_blocks, normalise_and_gather};

}  // namespace

int bilateral_direct_launch(const BilateralParams& params, const LaunchContext& context) {
  const int64_t* size = params.input.size;
  const int64_t pixels = size[0] * size[2] * size[3], blocks = (pixels + kThreads - 1) / kThreads;
  // 32 blocks of 256 threads fill a multiprocessor several times over; the loop does the rest.
  const int64_t most = 32 * static_cast<int64_t>(context.limits.multiprocessors);
  const dim3 grid(static_cast<unsigned>(blocks < most ? blocks : most));
  if (params.input.dtype == DType::kFloat64)
    return launch(bilateral_direct_kernel<double>, grid, dim3(kThreads), 0, context.stream, params, pixels);
  return launch(bilateral_direct_kernel<float>, grid, dim3(kThreads), 0, context.stream, params, pixels);
}

int64_t bilateral_grad_workspace(const BilateralGradParams& params, const BilateralGradPasses& passes) {
  BilateralGradWork w{};
  return place_buffers(params, passes, nullptr, w);
}

int run_bilateral_grad(const BilateralGradParams& params, const BilateralGradPasses& passes,
                       const LaunchContext& context) {
  BilateralGradWork w{};
  place_buffers(params, passes, context.workspace, w);
  const int64_t images = params.forward.input.size[0], group = w.images;
  for (w.first = 0; w.first < images; w.first += group) {
    w.images = images - w.first < group ? images - w.first : group;
    int code = passes.normalise_and_gather(w, context.stream);
    if (code == 0)
      code = params.forward.input.dtype == DType::kFloat64 ? launch_last_passes<double>(w, context.stream)
                                                           : launch_last_passes<float>(w, context.stream);
    if (code != 0) return code;
  }
  return 0;
}

int64_t bilateral_grad_direct_workspace(const BilateralGradParams& params, const DeviceLimits&) {
  return bilateral_grad_workspace(params, kPasses);
}

int bilateral_grad_direct_launch(const BilateralGradParams& params, const LaunchContext& context) {
  return run_bilateral_grad(params, kPasses, context);
}

}  // namespace denoise_ext::cuda
