// The gather of the bilateral gradients for at most three channels, from tiles in shared memory.
//
// The walk is bilateral_tile.cuh's over the enlarged image: a window's centre is z, its pixels are the
// neighbours t. A tile's pixel holds all that a neighbour gives: guidance, input, G / D and B. One channel
// of a joint filter is three of which two are zero.
//
// Per tap and three channels, the image its own guidance: 13 instructions for the weight and the input's
// gradient as in the filter, 8 for the two A, 4 for the sigmas, 12 for the guidance's gradient: 37, and a
// quarter of two 16-byte loads. Shared memory: radius 5: 42 x 42 x 32 bytes = 55 KiB; radius 7, joint: 46 x
// 46 x 40 bytes = 83 KiB.
#include "bilateral_grad.cuh"
#include "bilateral_tile.cuh"
#include "bilateral_variants.h"
#include "common.cuh"
#include "primitives.cuh"

namespace denoise_ext::cuda {
namespace {

// Values of a pixel of the tile: kGuide of guidance, B, kChannels of G / D, and kInput of input where that
// is not the guidance.
template <int kGuide, int kInput>
struct GradLayout {
  static constexpr int kChannels = kInput == 0 ? kGuide : kInput;
  static constexpr int kB = kGuide, kScaled = kGuide + 1, kImage = kInput == 0 ? 0 : kScaled + kChannels;
  static constexpr int kFloats = (kScaled + kChannels + kInput + 1) / 2 * 2;  // 4, 8 or 10
};

// What the four positions of a thread collect.
template <int kGuide, int kInput>
struct GradWindows {
  float centre[kOutputs][GradLayout<kGuide, kInput>::kFloats];
  float input[kOutputs][GradLayout<kGuide, kInput>::kChannels];
  float guidance[kOutputs][kGuide];
  float color, y, x;  // for the sigmas, of all four
};

template <int kGuide, int kInput>
__device__ __forceinline__ void load_neighbours(
    const BilateralGradWork& w, const BilateralTile& t,
    const PixelArrays<GradLayout<kGuide, kInput>::kFloats>& pixels, int64_t n, int y0, int x0, int thread) {
  using Layout = GradLayout<kGuide, kInput>;
  const BilateralParams& p = w.params.forward;
  const int guides = static_cast<int>(p.guidance.size[1]), channels = static_cast<int>(p.input.size[1]);
  const int64_t cols = p.input.size[3], plane = p.input.size[2] * cols;
  const float* scaled = static_cast<const float*>(w.scaled) + (n - w.first) * (channels + 1) * plane;
  y0 -= static_cast<int>(p.kernel_size[0] / 2);
  x0 -= static_cast<int>(p.kernel_size[1] / 2);
  with_pixels<float>(p.input.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    const Storage* guidance = static_cast<const Storage*>(p.guidance.data) + n * p.guidance.stride[0];
    const Storage* input = static_cast<const Storage*>(p.input.data) + n * p.input.stride[0];
    load_tile<1>(t, pixels, thread, [&](int row, int col, float (&v)[Layout::kFloats]) {
      const int64_t y = t.source[row], x = t.source[t.rows + col];
      if (y < 0 || x < 0) return;
      const Storage* guide = guidance + y * p.guidance.stride[2] + x * p.guidance.stride[3];
#pragma unroll
      for (int c = 0; c < kGuide; ++c)
        if (c < guides) v[c] = to_acc<float>(guide[c * p.guidance.stride[1]]);
      if constexpr (kInput > 0) {
        const Storage* from = input + y * p.input.stride[2] + x * p.input.stride[3];
#pragma unroll
        for (int c = 0; c < kInput; ++c)
          if (c < channels) v[Layout::kImage + c] = to_acc<float>(from[c * p.input.stride[1]]);
      }
      if (y != y0 + row || x != x0 + col) return;  // outside of the image: read from elsewhere
      const float* own = scaled + y * cols + x;
#pragma unroll
      for (int c = 0; c < Layout::kChannels; ++c)
        if (c < channels) v[Layout::kScaled + c] = own[c * plane];
      v[Layout::kB] = own[channels * plane];
    });
  });
}

// What neighbour v adds to window k.
template <int kGuide, int kInput, bool kL1>
__device__ __forceinline__ void add_neighbour(const float (&v)[GradLayout<kGuide, kInput>::kFloats], int k,
                                              float scale, float space, float dy2, float dx2,
                                              GradWindows<kGuide, kInput>& w) {
  using Layout = GradLayout<kGuide, kInput>;
  const auto& z = w.centre[k];
  float difference[kGuide], exponent = 0, distance = 0;
#pragma unroll
  for (int c = 0; c < kGuide; ++c) {
    difference[c] = z[c] - v[c];
    const float scaled = difference[c] * scale;
    distance += fabsf(difference[c]);
    exponent += scaled * scaled;
  }
  distance *= scale;
  if (kL1) exponent = distance * distance;
  const float weight = exp2_approx(space - exponent);
  float outward = -z[Layout::kB], inward = -v[Layout::kB];
#pragma unroll
  for (int c = 0; c < Layout::kChannels; ++c) {
    w.input[k][c] += weight * v[Layout::kScaled + c];
    outward += z[Layout::kScaled + c] * v[Layout::kImage + c];
    inward += v[Layout::kScaled + c] * z[Layout::kImage + c];
  }
  outward *= weight;
  w.color += outward * exponent;
  w.y += outward * dy2;
  w.x += outward * dx2;
  float factor = outward + inward * weight;
  if (kL1) factor *= distance;
#pragma unroll
  for (int c = 0; c < kGuide; ++c) {
    if (!kL1) {
      w.guidance[k][c] += factor * difference[c];
    } else if (difference[c] != 0) {
      w.guidance[k][c] += copysignf(1.0f, difference[c]) * factor;
    }
  }
}

// squares: dy^2 of the four windows in each row.
template <int kGuide, int kInput, bool kL1>
__device__ __forceinline__ void gather_windows(const BilateralParams& p, const BilateralTile& t,
                                               const PixelArrays<GradLayout<kGuide, kInput>::kFloats>& pixels,
                                               const float4* squares, float scale, int row, int col,
                                               GradWindows<kGuide, kInput>& w) {
  constexpr int kFloats = GradLayout<kGuide, kInput>::kFloats;
  const int radius_y = static_cast<int>(p.kernel_size[0] / 2),
            radius_x = static_cast<int>(p.kernel_size[1] / 2);
#pragma unroll
  for (int k = 0; k < kOutputs; ++k) pixels.read((row + k + radius_y) * t.cols + col + radius_x, w.centre[k]);
#pragma unroll 1
  for (int dx = 0; dx <= 2 * radius_x; ++dx) {
    const float dx2 = static_cast<float>((dx - radius_x) * (dx - radius_x));
    SpaceLogs space(t, radius_y, dx);
    int below = radius_y - t.extent[dx];  // rows below the first window's top
    walk_column<1>(t.extent[dx], [&](auto among) {
      float v[kFloats];
      pixels.read((row + below) * t.cols + col + dx, v);
      const float4 square = squares[below++];
      const float dy2[kOutputs] = {square.x, square.y, square.z, square.w};
      space.next_row<decltype(among)::kFrom>();
#pragma unroll
      for (int k = decltype(among)::kFrom; k <= decltype(among)::kTo; ++k)
        add_neighbour<kGuide, kInput, kL1>(v, k, scale, space.window[k], dy2[k], dx2, w);
    });
  }
}

// The scales: what has been left out of the guidance's gradient.
template <int kGuide, int kInput>
__device__ __forceinline__ void store_gathered(const BilateralGradWork& w, int64_t image, int64_t y,
                                               int64_t x, float first_scale, float second_scale,
                                               const GradWindows<kGuide, kInput>& sums) {
  const int64_t channels = w.params.forward.input.size[1], guides = w.params.forward.guidance.size[1];
  const int64_t plane = w.rows * w.cols, at = y * w.cols + x;
  float* input = static_cast<float*>(w.grad_input) + image * channels * plane + at;
  float* guidance = static_cast<float*>(w.grad_guidance) + image * guides * plane + at;
#pragma unroll
  for (int k = 0; k < kOutputs; ++k) {
    if (y + k >= w.rows) break;
    if (w.grad_input != nullptr) {
#pragma unroll
      for (int c = 0; c < GradLayout<kGuide, kInput>::kChannels; ++c)
        if (c < channels) input[c * plane + k * w.cols] = sums.input[k][c];
    }
    if (w.grad_guidance != nullptr) {
#pragma unroll
      for (int c = 0; c < kGuide; ++c)
        if (c < guides) guidance[c * plane + k * w.cols] = sums.guidance[k][c] * first_scale * second_scale;
    }
  }
}

// blockIdx: tile of the enlarged image, image of the group.
template <int kGuide, int kInput>
__global__ void __launch_bounds__(kThreads, 2)
    bilateral_grad_tile_kernel(BilateralGradWork w, unsigned tiles_x) {
  constexpr int kFloats = GradLayout<kGuide, kInput>::kFloats;
  const BilateralParams& p = w.params.forward;
  SharedArena arena;
  PixelArrays<kFloats> pixels;
  const BilateralTile t = tile_arrays(p, arena, pixels);
  float4* squares = arena.take<float4>(static_cast<size_t>(p.kernel_size[0]) + 3);
  double* block_sums = arena.take<double>(kThreads);
  const int thread = static_cast<int>(threadIdx.x);
  const int y = static_cast<int>(blockIdx.x / tiles_x) * kRows;
  const int x = static_cast<int>(blockIdx.x % tiles_x) * kCols;
  const int radius_y = static_cast<int>(p.kernel_size[0] / 2);
  const int y0 = y - radius_y, x0 = x - static_cast<int>(p.kernel_size[1] / 2);
  const int row = thread / kCols * kOutputs, col = thread % kCols;
  const int64_t n = w.first + blockIdx.y;
  const BilateralScales<float> scales = bilateral_scales<float>(p, n);
  make_tables(p, t, y0, x0, scales, thread);
#pragma unroll 1
  for (int i = thread; i < 2 * radius_y + kOutputs; i += kThreads) {
    const auto square = [&](int k) { return static_cast<float>((i - k - radius_y) * (i - k - radius_y)); };
    squares[i] = make_float4(square(0), square(1), square(2), square(3));
  }
  __syncthreads();
  load_neighbours<kGuide, kInput>(w, t, pixels, n, y0, x0, thread);
  __syncthreads();
  GradWindows<kGuide, kInput> sums{};
  if (y + row < w.rows && x + col < w.cols) {
    const bool l1 = kGuide > 1 && p.distance == ColorDistance::kL1 && p.guidance.size[1] > 1;
    const float scale = color_scale(scales);
    if (l1) {
      gather_windows<kGuide, kInput, true>(p, t, pixels, squares, scale, row, col, sums);
    } else {
      gather_windows<kGuide, kInput, false>(p, t, pixels, squares, scale, row, col, sums);
    }
    // L1: the distance is in it with sqrt(log2 e) times the scale, L2: the difference without any.
    store_gathered(w, blockIdx.y, y + row, x + col, -2 * scales.color, l1 ? 1 / kRootLog2E : scales.color,
                   sums);
  }
  if (w.partials == nullptr) return;
  double* to = w.partials + blockIdx.y * 3 * w.blocks + blockIdx.x;
  const float parts[3] = {sums.color / kLog2E, sums.y, sums.x};  // exponents were to base 2
#pragma unroll
  for (int kind = 0; kind < 3; ++kind) {
    const double sum = block_sum(static_cast<double>(parts[kind]), block_sums);
    if (thread == 0) to[kind * w.blocks] = sum;
  }
}

// Calls f with the layout and kernel for these channels; false where there is none.
template <class F>
bool with_kernel(const BilateralParams& p, const F& f) {
  const int64_t guides = p.guidance.size[1];
  if (guides > 3 || p.input.size[1] > 3) return false;
  if (!is_self_guided(p)) return f(GradLayout<3, 3>{}, bilateral_grad_tile_kernel<3, 3>), true;
  if (guides == 1) return f(GradLayout<1, 0>{}, bilateral_grad_tile_kernel<1, 0>), true;
  return f(GradLayout<3, 0>{}, bilateral_grad_tile_kernel<3, 0>), true;
}

int64_t tiles_along(int64_t extent, int64_t tile) {
  return (extent + tile - 1) / tile;
}

int64_t tile_blocks(const BilateralGradWork& w) {
  return tiles_along(w.cols, kCols) * tiles_along(w.rows, kRows);
}

template <int kFloats>
size_t grad_tile_bytes(const BilateralParams& p) {
  return tile_bytes<kFloats>(p) + SharedArena::bytes<float4>(static_cast<size_t>(p.kernel_size[0]) + 3) +
         SharedArena::bytes<double>(kThreads);
}

int normalise_and_gather(const BilateralGradWork& w, void* stream) {
  int code = bilateral_normalise_launch(w.params, w.first, w.images, static_cast<float*>(w.scaled), stream);
  if (code != 0) return code;
  const BilateralParams& p = w.params.forward;
  const dim3 grid(static_cast<unsigned>(w.blocks), static_cast<unsigned>(w.images));
  with_kernel(p, [&](auto layout, auto kernel) {
    code = launch(kernel, grid, dim3(kThreads), grad_tile_bytes<decltype(layout)::kFloats>(p), stream, w,
                  static_cast<unsigned>(tiles_along(w.cols, kCols)));
  });
  return code;
}

constexpr BilateralGradPasses kPasses{tile_blocks, normalise_and_gather};

}  // namespace

const char* bilateral_grad_tile_cannot_run(const BilateralGradParams& params, const DeviceLimits& limits) {
  const BilateralParams& p = params.forward;
  const char* reason = "it is compiled for at most 3 channels, of input and of guidance";
  with_kernel(p, [&](auto layout, auto) {
    constexpr int kFloats = decltype(layout)::kFloats;
    reason = tile_cannot(p, static_cast<int64_t>(grad_tile_bytes<kFloats>(p)), limits);
  });
  return reason;
}

int64_t bilateral_grad_tile_workspace(const BilateralGradParams& params, const DeviceLimits&) {
  return bilateral_grad_workspace(params, kPasses);
}

int bilateral_grad_tile_launch(const BilateralGradParams& params, const LaunchContext& context) {
  return run_bilateral_grad(params, kPasses, context);
}

}  // namespace denoise_ext::cuda
