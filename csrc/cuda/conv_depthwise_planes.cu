// Depthwise convolution with columns innermost: memory-bound, one pass. A block copies the input under a
// piece of one plane into shared memory as floats; a thread then slides a column of the kernel over 8
// output rows, reading each input value once per kernel column.
#include "common.cuh"
#include "conv_depthwise.h"
#include "conv_variants.h"
#include "primitives.cuh"

namespace denoise_ext::cuda {
namespace {

constexpr int kThreads = DepthwisePlanes::kThreads, kCols = DepthwisePlanes::kCols;
constexpr int kThreadRows = DepthwisePlanes::kThreadRows;

struct Piece {
  int64_t n, channel, y0, x0;  // of the block's first output
};

// One element as a float and back. The element type is a value here, not a type: it matters only where
// memory is read and written, and every further copy of these kernels takes time to compile.
__device__ __forceinline__ float load_as_float(const void* data, int64_t i, DType dtype) {
  if (dtype == DType::kFloat32) return static_cast<const float*>(data)[i];
  const uint16_t bits = static_cast<const uint16_t*>(data)[i];
  return dtype == DType::kFloat16 ? from_float16(bits) : __uint_as_float(static_cast<uint32_t>(bits) << 16);
}

__device__ __forceinline__ void store_float(void* data, int64_t i, DType dtype, float x) {
  if (dtype == DType::kFloat32)
    static_cast<float*>(data)[i] = x;
  else
    static_cast<uint16_t*>(data)[i] = dtype == DType::kFloat16 ? to_float16(x) : to_bfloat16(x);
}

__device__ __forceinline__ int64_t offset(const Tensor4& t, int64_t n, int64_t c, int64_t y, int64_t x) {
  return n * t.stride[0] + c * t.stride[1] + y * t.stride[2] + x * t.stride[3];
}

// tile: [in_rows][in_cols], zero outside the image; weights: [kh][kw]
__device__ __forceinline__ void load_piece(const ConvParams& p, const DepthwisePlanes& t, const Piece& at,
                                           float* tile, float* weights) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t y_first = at.y0 * p.stride[0] - p.padding[0], x_first = at.x0 * p.stride[1] - p.padding[1];
  for (int r = warp; r < t.in_rows; r += kThreads / 32) {
    const bool row_inside = y_first + r >= 0 && y_first + r < p.input.size[2];
    const int64_t row = offset(p.input, at.n, at.channel, y_first + r, x_first);
#pragma unroll 4
    for (int c = lane; c < t.in_cols; c += 32) {
      const bool inside = row_inside && x_first + c >= 0 && x_first + c < p.input.size[3];
      tile[r * t.in_cols + c] = inside ? load_as_float(p.input.data, row + c, p.input.dtype) : 0.0f;
    }
  }
  const int kw = static_cast<int>(p.weight.size[3]), taps = static_cast<int>(p.weight.size[2]) * kw;
  for (int i = static_cast<int>(threadIdx.x); i < taps; i += kThreads)
    weights[i] =
        load_as_float(p.weight.data, offset(p.weight, at.channel, 0, i / kw, i % kw), p.weight.dtype);
}

// sums: this thread's, kCols apart.
__device__ __forceinline__ void store_piece(const ConvParams& p, const Piece& at, const float* sums) {
  const int64_t x = at.x0 + threadIdx.x % kCols;
  const int64_t y_first = at.y0 + threadIdx.x / kCols * kThreadRows;
  const DType dtype = p.output.dtype;
  if (x >= p.output.size[3]) return;
  const float bias =
      p.bias.data != nullptr ? load_as_float(p.bias.data, at.channel * p.bias.stride, dtype) : 0.0f;
  float slope = static_cast<float>(p.negative_slope);
  if (p.activation == Activation::kPrelu)
    slope = load_as_float(p.prelu_weight.data,
                          p.prelu_weight.size == 1 ? 0 : at.channel * p.prelu_weight.stride, dtype);
  for (int r = 0; r < kThreadRows && y_first + r < p.output.size[2]; ++r) {
    float value = sums[r * kCols] + bias, residual = 0;
    if (p.residual.data != nullptr)
      residual = load_as_float(p.residual.data, offset(p.residual, at.n, at.channel, y_first + r, x), dtype);
    const bool before = p.residual_position == ResidualPosition::kBeforeActivation;
    if (before) value += residual;
    value = activate(value, p.activation, slope);
    if (!before) value += residual;
    store_float(p.output.data, offset(p.output, at.n, at.channel, y_first + r, x), dtype, value);
  }
}

// kKh: the kernel's height.
// Registers: 8 sums, 7 weights, about 30 for addresses: at most 64, so that four blocks fit.
template <int kKh, int kStride>
__global__ void __launch_bounds__(kThreads, 4) conv_depthwise_planes_kernel(ConvParams p, DepthwisePlanes t) {
  const int kw = static_cast<int>(p.weight.size[3]);
  SharedArena arena;
  float* const tile = arena.take<float>(static_cast<size_t>(t.in_rows * t.in_cols));
  float* const weights = arena.take<float>(static_cast<size_t>(kKh * kw));
  float* const results = arena.take<float>(kThreads * kThreadRows);

  Piece at;
  int64_t i = blockIdx.x;
  at.x0 = i % t.tiles_x * kCols;
  i /= t.tiles_x;
  at.y0 = i % t.tiles_y * DepthwisePlanes::kRows;
  i /= t.tiles_y;
  at.channel = i % p.output.size[1];
  at.n = i / p.output.size[1];
  load_piece(p, t, at, tile, weights);
  __syncthreads();

  const int col = static_cast<int>(threadIdx.x) % kCols;
  const int first_row = static_cast<int>(threadIdx.x) / kCols * kThreadRows;
  float sums[kThreadRows] = {};
  for (int v = 0; v < kw; ++v) {
    const float* column = tile + first_row * kStride * t.in_cols + col * kStride + v;
    float w[kKh];
#pragma unroll
    for (int u = 0; u < kKh; ++u) w[u] = weights[u * kw + v];
#pragma unroll
    for (int j = 0; j < (kThreadRows - 1) * kStride + kKh; ++j) {
      const float x = column[j * t.in_cols];
#pragma unroll
      for (int r = 0; r < kThreadRows; ++r)
        if (j - r * kStride >= 0 && j - r * kStride < kKh) sums[r] += w[j - r * kStride] * x;
    }
  }
  // Through shared memory, so that the long code of the last step stands in a loop; each thread reads
  // its own values only.
  float* const own = results + first_row * kCols + col;
#pragma unroll
  for (int r = 0; r < kThreadRows; ++r) own[r * kCols] = sums[r];
  store_piece(p, at, own);
}

template <int kStride>
auto kernel_of(int64_t kh) {
  return kh == 3   ? conv_depthwise_planes_kernel<3, kStride>
         : kh == 5 ? conv_depthwise_planes_kernel<5, kStride>
                   : conv_depthwise_planes_kernel<7, kStride>;
}

}  // namespace

int conv_depthwise_planes_launch(const ConvParams& p, const LaunchContext& context) {
  const DepthwisePlanes t = depthwise_planes(p);
  const dim3 grid(static_cast<unsigned>(p.output.size[0] * p.output.size[1] * t.tiles_x * t.tiles_y));
  const auto kernel = p.stride[0] == 1 ? kernel_of<1>(p.weight.size[2]) : kernel_of<2>(p.weight.size[2]);
  return launch(kernel, grid, dim3(kThreads), t.shared_bytes, context.stream, p, t);
}

}  // namespace denoise_ext::cuda
