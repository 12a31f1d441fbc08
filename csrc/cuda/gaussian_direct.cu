// The Gaussian filter, its adjoint and sigma's gradient for kernels too large for gaussian_ring.cuh: one
// thread per pixel sums the whole window, with taps from tables in the workspace. Always correct, never
// the fast one.
#include "common.cuh"
#include "gaussian.cuh"
#include "gaussian_variants.h"
#include "primitives.cuh"

namespace denoise_ext::cuda {
namespace {

constexpr int kThreads = 256;
// Blocks over which sigma's gradient divides an image.
constexpr int kParts = 64;

struct GaussianDirect {
  Tensor4 input, output;
  GaussianTables tables;
  double* partials;  // [axis][image][kParts]
  Border border;
  int radius[2];
  bool one_sigma;
};

// Taps of one axis for one position; `derivative`: with respect to sigma.
template <class Acc>
__device__ __forceinline__ const Acc* taps_at(const GaussianDirect& p, int axis, int64_t position,
                                              int64_t row, bool derivative) {
  const int radius = axis == 0 ? p.radius[0] : p.radius[1], size = 2 * radius + 1;
  const int64_t extent = axis == 0 ? p.input.size[2] : p.input.size[3];
  const void* edges = axis == 0 ? p.tables.edges[0] : p.tables.edges[1];
  if (edges != nullptr) {
    const int64_t edge = edge_row(position, extent, radius);
    if (edge >= 0) return static_cast<const Acc*>(edges) + (row * edge_count(extent, radius) + edge) * size;
  }
  const void* common = derivative ? (axis == 0 ? p.tables.derivative[0] : p.tables.derivative[1])
                                  : (axis == 0 ? p.tables.taps[0] : p.tables.taps[1]);
  return static_cast<const Acc*>(common) + row * size;
}

// The window's sum around one pixel; derivative: the axis whose taps are derivatives, or -1.
template <class Acc>
__device__ __forceinline__ Acc window_sum(const GaussianDirect& p, int64_t n, int64_t c, int64_t y, int64_t x,
                                          int derivative) {
  const int64_t row = p.one_sigma ? 0 : n;
  const Acc* taps_y = taps_at<Acc>(p, 0, y, row, derivative == 0);
  const Acc* taps_x = taps_at<Acc>(p, 1, x, row, derivative == 1);
  Acc sum = 0;
  for (int i = 0; i <= 2 * p.radius[0]; ++i) {
    const int64_t sy = border_index(y - p.radius[0] + i, p.input.size[2], p.border);
    if (sy < 0) continue;
    Acc across = 0;
    for (int j = 0; j <= 2 * p.radius[1]; ++j) {
      const int64_t sx = border_index(x - p.radius[1] + j, p.input.size[3], p.border);
      if (sx >= 0)
        across +=
            taps_x[j] * load_pixel<Acc>(p.input.data, pixel_offset(p.input, n, c, sy, sx), p.input.dtype);
    }
    sum += taps_y[i] * across;
  }
  return sum;
}

struct Pixel {
  int64_t n, c, y, x;
};

// Pixel `index` of those from image `first` on, neighbours in memory side by side.
__device__ __forceinline__ Pixel pixel_at(const Tensor4& t, int64_t first, int64_t index) {
  const int64_t channels = t.size[1], cols = t.size[3], plane = t.size[2] * cols;
  const int64_t within = index % (channels * plane), n = first + index / (channels * plane);
  if (t.stride[1] == 1) return {n, within % channels, within / channels / cols, within / channels % cols};
  return {n, within / plane, within % plane / cols, within % cols};
}

template <class Acc>
__global__ void __launch_bounds__(kThreads) gaussian_direct_kernel(GaussianDirect p, int64_t pixels) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < pixels;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const Pixel at = pixel_at(p.output, 0, i);
    const Acc sum = window_sum<Acc>(p, at.n, at.c, at.y, at.x, -1);
    const int64_t offset = pixel_offset(p.output, at.n, at.c, at.y, at.x);
    if constexpr (sizeof(Acc) == sizeof(float)) {
      if (p.output.dtype == DType::kUInt8) {  // in 1/2^16, rounded half up, as OpenCV does
        static_cast<uint8_t*>(p.output.data)[offset] =
            static_cast<uint8_t>((static_cast<int>(sum) + (1 << 15)) >> 16);
        continue;
      }
    }
    store_pixel<Acc>(p.output.data, offset, p.output.dtype, sum);
  }
}

// Block (part, axis) of image p.first: partial sums; `pixels` of one image.
template <class Acc>
__global__ void __launch_bounds__(kThreads) gaussian_sigma_direct_kernel(GaussianDirect p, int64_t pixels) {
  __shared__ double sums[kThreads];
  const int64_t images = p.input.size[0];
  for (int64_t n = 0; n < images; ++n) {
    double sum = 0;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < pixels;
         i += static_cast<int64_t>(kParts) * kThreads) {
      const Pixel at = pixel_at(p.input, n, i);
      const int64_t offset = pixel_offset(p.output, at.n, at.c, at.y, at.x);
      sum += static_cast<double>(load_pixel<Acc>(p.output.data, offset, p.output.dtype)) *
             static_cast<double>(window_sum<Acc>(p, at.n, at.c, at.y, at.x, static_cast<int>(blockIdx.y)));
    }
    sum = block_sum(sum, sums);
    if (threadIdx.x == 0) p.partials[(blockIdx.y * images + n) * kParts + blockIdx.x] = sum;
  }
}

int64_t count_of(const Tensor4& t, int first) {
  int64_t count = 1;
  for (int i = first; i < 4; ++i) count *= t.size[i];
  return count;
}

// The parts of GaussianDirect that filter and gradient share.
template <class Params>
GaussianDirect direct_params(const Params& params, const GaussianTableRequest& request, void* workspace) {
  GaussianDirect p{};
  p.input = params.input;
  const int64_t tables = place_gaussian_tables(request, workspace, &p.tables);
  p.partials = reinterpret_cast<double*>(static_cast<char*>(workspace) + tables);
  const bool edges = p.tables.edges[0] != nullptr || p.tables.edges[1] != nullptr;
  p.border = edges ? Border::kConstant : params.border;
  for (int axis = 0; axis < 2; ++axis) p.radius[axis] = static_cast<int>(params.kernel_size[axis] / 2);
  p.one_sigma = sigma_rows(params.sigma) == 1;
  return p;
}

GaussianTableRequest table_request(const GaussianParams& params) {
  return {params.input,   params.sigma, params.sigma_row, params.kernel_size, params.border,
          params.adjoint, false};
}
GaussianTableRequest table_request(const GaussianSigmaGradParams& params) {
  return {params.input, params.sigma, params.sigma_row, params.kernel_size, params.border, false, true};
}

}  // namespace

int64_t gaussian_direct_workspace(const GaussianParams& params, const DeviceLimits&) {
  return place_gaussian_tables(table_request(params), nullptr, nullptr);
}

int gaussian_direct_launch(const GaussianParams& params, const LaunchContext& context) {
  const GaussianTableRequest request = table_request(params);
  GaussianDirect p = direct_params(params, request, context.workspace);
  p.output = params.output;
  const int code = launch_gaussian_tables(request, p.tables, context.stream);
  if (code != 0) return code;
  const int64_t pixels = count_of(p.output, 0), blocks = (pixels + kThreads - 1) / kThreads;
  // 32 blocks of 256 threads fill a multiprocessor several times over; the loop does the rest.
  const int64_t most = 32 * static_cast<int64_t>(context.limits.multiprocessors);
  const dim3 grid(static_cast<unsigned>(blocks < most ? blocks : most));
  if (params.input.dtype == DType::kFloat64)
    return launch(gaussian_direct_kernel<double>, grid, dim3(kThreads), 0, context.stream, p, pixels);
  return launch(gaussian_direct_kernel<float>, grid, dim3(kThreads), 0, context.stream, p, pixels);
}

int64_t gaussian_sigma_grad_direct_workspace(const GaussianSigmaGradParams& params, const DeviceLimits&) {
  return place_gaussian_tables(table_request(params), nullptr, nullptr) +
         2 * params.input.size[0] * kParts * static_cast<int64_t>(sizeof(double));
}

int gaussian_sigma_grad_direct_launch(const GaussianSigmaGradParams& params, const LaunchContext& context) {
  const GaussianTableRequest request = table_request(params);
  GaussianDirect p = direct_params(params, request, context.workspace);
  p.output = params.grad_output;
  int code = launch_gaussian_tables(request, p.tables, context.stream);
  if (code != 0) return code;
  const int64_t pixels = count_of(p.input, 1);
  const dim3 grid(kParts, 2);
  code =
      params.input.dtype == DType::kFloat64
          ? launch(gaussian_sigma_direct_kernel<double>, grid, dim3(kThreads), 0, context.stream, p, pixels)
          : launch(gaussian_sigma_direct_kernel<float>, grid, dim3(kThreads), 0, context.stream, p, pixels);
  if (code != 0) return code;
  return gaussian_sum_partials_launch(p.partials, params.grad_sigma, params.input.size[0] * kParts,
                                      sigma_rows(params.sigma), context.stream);
}

}  // namespace denoise_ext::cuda
