// Depthwise convolution with columns innermost: memory-bound, one pass. A block copies the input under a
// piece of one plane into shared memory as floats; a thread then slides a column of the kernel over 8
// output rows, reading each input value once per kernel column.
#include "common.cuh"
#include "conv_depthwise.h"
#include "conv_variants.h"
#include "primitives.cuh"
#include "vectors.cuh"

namespace denoise_ext::cuda {
namespace {

constexpr int kThreads = DepthwisePlanes::kThreads, kCols = DepthwisePlanes::kCols;
constexpr int kThreadRows = DepthwisePlanes::kThreadRows;

struct Piece {
  int64_t n, channel, y0, x0;  // of the block's first output
};

// tile: [in_rows][in_cols], zero outside the image; weights: [kh][kw]
template <class Storage>
__device__ __forceinline__ void load_piece(const ConvParams& p, const DepthwisePlanes& t, const Piece& at,
                                           float* tile, float* weights) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t y_first = at.y0 * p.stride[0] - p.padding[0], x_first = at.x0 * p.stride[1] - p.padding[1];
  for (int r = warp; r < t.in_rows; r += kThreads / 32) {
    const bool row_inside = y_first + r >= 0 && y_first + r < p.input.size[2];
    const Storage* row = element<Storage>(p.input, at.n, at.channel, y_first + r, x_first);
#pragma unroll 4
    for (int c = lane; c < t.in_cols; c += 32) {
      const bool inside = row_inside && x_first + c >= 0 && x_first + c < p.input.size[3];
      tile[r * t.in_cols + c] = inside ? to_acc<float>(row[c]) : 0.0f;
    }
  }
  const int kw = static_cast<int>(p.weight.size[3]), taps = static_cast<int>(p.weight.size[2]) * kw;
  for (int i = static_cast<int>(threadIdx.x); i < taps; i += kThreads)
    weights[i] = to_acc<float>(*element<Storage>(p.weight, at.channel, 0, i / kw, i % kw));
}

// sums: this thread's, kCols apart.
template <class Storage>
__device__ __forceinline__ void store_piece(const ConvParams& p, const Piece& at, const float* sums) {
  const int64_t x = at.x0 + threadIdx.x % kCols;
  const int64_t y_first = at.y0 + threadIdx.x / kCols * kThreadRows;
  if (x >= p.output.size[3]) return;
  for (int r = 0; r < kThreadRows && y_first + r < p.output.size[2]; ++r)
    *element<Storage>(p.output, at.n, at.channel, y_first + r, x) = FromAcc<Storage>::convert(
        finish_output<Storage, float>(p, sums[r * kCols], at.n, at.channel, y_first + r, x));
}

// kKh: the kernel's height. The element type matters only where memory is read and written.
template <int kKh, int kStride>
__global__ void __launch_bounds__(kThreads) conv_depthwise_planes_kernel(ConvParams p, DepthwisePlanes t) {
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
  switch (p.output.dtype) {
    case DType::kFloat16: load_piece<__half>(p, t, at, tile, weights); break;
    case DType::kBFloat16: load_piece<__nv_bfloat16>(p, t, at, tile, weights); break;
    default: load_piece<float>(p, t, at, tile, weights); break;
  }
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
  switch (p.output.dtype) {
    case DType::kFloat16: store_piece<__half>(p, at, own); break;
    case DType::kBFloat16: store_piece<__nv_bfloat16>(p, at, own); break;
    default: store_piece<float>(p, at, own); break;
  }
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
