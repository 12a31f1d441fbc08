// Motion compensation: a thread per element copies it. The gradient gathers: a thread per element adds up
// all that was read from it, block after block in their order, so that no sum depends on chance.
#include "motion.cuh"
#include "motion_variants.h"

namespace denoise_ext::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kSide = static_cast<int>(kBlock);
constexpr int kTileRows = 8, kTileColumns = 32;  // of the gradient; kThreads in all

// Elements of one size are copied alike, whatever they mean.
template <class Element>
__global__ void __launch_bounds__(kThreads) block_warp_copy_kernel(BlockWarpParams p, int64_t count) {
  const int64_t height = p.input.size[2], width = p.input.size[3];
  const int64_t columns = (width + kBlock - 1) / kBlock, rows = (height + kBlock - 1) / kBlock;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const ImagePixel at = element_at(p.output, i);
    const int16_t* v = p.motion + 2 * ((at.n * rows + at.y / kBlock) * columns + at.x / kBlock);
    const int64_t y = clamped<int64_t>(at.y + v[0], height), x = clamped<int64_t>(at.x + v[1], width);
    static_cast<Element*>(p.output.data)[pixel_offset(p.output, at.n, at.c, at.y, at.x)] =
        static_cast<const Element*>(p.input.data)[pixel_offset(p.input, at.n, at.c, y, x)];
  }
}

// Positions [from, to) of an axis, of those of a block from `start` to `end`, that read position `at` when
// moved by v: one, or where the edge is repeated all that lie beyond it.
struct Readers {
  int from, to;

  __device__ Readers(int at, int size, int start, int end, int v)
      : from(at == 0 ? start : at - v), to(at == size - 1 ? end : at - v + 1) {
    if (from < start) from = start;
    if (to > end) to = end;
  }
};

template <class Acc>
__global__ void __launch_bounds__(kThreads, 4) block_warp_gather_kernel(BlockWarpParams p) {
  // Of kThreads blocks at a time: their vectors, and whether any of their pixels was read from this tile.
  __shared__ int16_t vectors[kThreads][2];
  __shared__ bool reads[kThreads];
  const int height = static_cast<int>(p.output.size[2]), width = static_cast<int>(p.output.size[3]);
  const int columns = (width + kSide - 1) / kSide, rows = (height + kSide - 1) / kSide;
  const int thread = static_cast<int>(threadIdx.x);
  const int tiles_x = (width + kTileColumns - 1) / kTileColumns;
  const int tiles_y = (height + kTileRows - 1) / kTileRows;
  const int64_t plane = blockIdx.x / tiles_x / tiles_y;
  const int64_t n = plane / p.output.size[1], c = plane % p.output.size[1];
  const int top = static_cast<int>(blockIdx.x / tiles_x % tiles_y) * kTileRows;
  const int left = static_cast<int>(blockIdx.x % tiles_x) * kTileColumns;
  const int y = top + thread / kTileColumns, x = left + thread % kTileColumns;
  const int bottom = smaller(top + kTileRows, height), right = smaller(left + kTileColumns, width);
  const bool inside = y < height && x < width;
  Acc sum = 0;
  for (int64_t first = 0; first < static_cast<int64_t>(rows) * columns; first += kThreads) {
    const int64_t left_over = static_cast<int64_t>(rows) * columns - first;
    const int count = left_over < kThreads ? static_cast<int>(left_over) : kThreads;
    if (thread < count) {
      const int64_t mine = first + thread;
      const int16_t* v = p.motion + 2 * (n * rows * columns + mine);
      vectors[thread][0] = v[0];
      vectors[thread][1] = v[1];
      const int start_y = static_cast<int>(mine / columns) * kSide;
      const int start_x = static_cast<int>(mine % columns) * kSide;
      const int last_y = smaller(start_y + kSide, height) - 1, last_x = smaller(start_x + kSide, width) - 1;
      reads[thread] = clamped(last_y + v[0], height) >= top && clamped(start_y + v[0], height) < bottom &&
                      clamped(last_x + v[1], width) >= left && clamped(start_x + v[1], width) < right;
    }
    __syncthreads();
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
      if (!reads[i] || !inside) continue;
      const int start_y = static_cast<int>((first + i) / columns) * kSide;
      const int start_x = static_cast<int>((first + i) % columns) * kSide;
      const Readers from_y(y, height, start_y, smaller(start_y + kSide, height), vectors[i][0]);
      const Readers from_x(x, width, start_x, smaller(start_x + kSide, width), vectors[i][1]);
#pragma unroll 1
      for (int j = from_y.from; j < from_y.to; ++j)
#pragma unroll 1
        for (int k = from_x.from; k < from_x.to; ++k)
          sum += load_pixel<Acc>(p.input.data, pixel_offset(p.input, n, c, j, k), p.input.dtype);
    }
    __syncthreads();  // the next turn overwrites what this one read
  }
  if (inside) store_pixel<Acc>(p.output.data, pixel_offset(p.output, n, c, y, x), p.output.dtype, sum);
}

int64_t count_of(const Tensor4& t) {
  return t.size[0] * t.size[1] * t.size[2] * t.size[3];
}

template <class Element>
int launch_copy(const BlockWarpParams& params, const LaunchContext& context) {
  const int64_t count = count_of(params.output);
  return launch(block_warp_copy_kernel<Element>, grid_for(count, kThreads, context.limits), dim3(kThreads), 0,
                context.stream, params, count);
}

}  // namespace

int block_warp_copy_launch(const BlockWarpParams& params, const LaunchContext& context) {
  switch (params.input.dtype) {
    case DType::kFloat64: return launch_copy<uint64_t>(params, context);
    case DType::kFloat32: return launch_copy<uint32_t>(params, context);
    case DType::kUInt8: return launch_copy<uint8_t>(params, context);
    default: return launch_copy<uint16_t>(params, context);
  }
}

int block_warp_gather_launch(const BlockWarpParams& params, const LaunchContext& context) {
  const int64_t* size = params.output.size;
  const int64_t tiles =
      ((size[2] + kTileRows - 1) / kTileRows) * ((size[3] + kTileColumns - 1) / kTileColumns);
  const dim3 grid(static_cast<unsigned>(size[0] * size[1] * tiles));
  if (params.input.dtype == DType::kFloat64)
    return launch(block_warp_gather_kernel<double>, grid, dim3(kThreads), 0, context.stream, params);
  return launch(block_warp_gather_kernel<float>, grid, dim3(kThreads), 0, context.stream, params);
}

}  // namespace denoise_ext::cuda
