// The joint bilateral filter guided by 1 to 4 channels, any radius that shared memory holds; and the first
// pass of its gradients, which is the same filter with another end.
//
// Input channels beyond the third are filtered by further blocks, three at a time. Two guidance channels,
// or input channels, are three of which one is zero.
//
// Per tap and three channels: 5 subtractions and additions of the distance, 1 multiplication by the scale, 2
// for the exponent, 1 exponential, 4 for the sums: 13 instructions, and a quarter of the loads. Shared
// memory: radius 5, three channels: 42 x 42 x 16 bytes = 28 KiB.
#include "../params/arithmetic.h"
#include "bilateral_tile.cuh"
#include "bilateral_variants.h"
#include "common.cuh"
#include "primitives.cuh"

namespace denoise_ext::cuda {
namespace {

// kGuide guidance channels; kInput input channels, 0: the guidance is the input.
template <int kGuide, int kInput>
struct PixelLayout {
  static constexpr int kChannels = kInput == 0 ? kGuide : kInput;
  static constexpr int kFloats = kGuide + kInput == 3 ? 4 : kGuide + kInput;
};

// What becomes of images first .. first + images - 1: the filter's output, or where `scaled` is given what
// bilateral_grad.cuh calls G / D and B.
struct Purpose {
  int64_t first, images;
  Tensor4 grad_output;  // (N, C, H, W)
  float* scaled;        // (images, C + 1, H, W), or nullptr
};

// The four windows of a thread.
template <int kGuide, int kInput>
struct Windows {
  float centre[kOutputs][kGuide];
  float sums[kOutputs][PixelLayout<kGuide, kInput>::kChannels];
  float totals[kOutputs];
};

template <int kGuide, int kInput>
__device__ __forceinline__ void load_image(const BilateralParams& p, const BilateralTile& t,
                                           const PixelArrays<PixelLayout<kGuide, kInput>::kFloats>& pixels,
                                           int64_t n, int64_t first, int thread) {
  constexpr int kFloats = PixelLayout<kGuide, kInput>::kFloats;
  const int guides = static_cast<int>(p.guidance.size[1]);
  const int64_t inputs = p.input.size[1] - first;
  with_pixels<float>(p.input.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    const Storage* guidance = static_cast<const Storage*>(p.guidance.data) + n * p.guidance.stride[0];
    const Storage* input =
        static_cast<const Storage*>(p.input.data) + n * p.input.stride[0] + first * p.input.stride[1];
    load_tile<kFloats == 1 ? 2 : 1>(t, pixels, thread, [&](int row, int col, float (&v)[kFloats]) {
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
          if (c < inputs) v[kGuide + c] = to_acc<float>(from[c * p.input.stride[1]]);
      }
    });
  });
}

// Adds a pixel to window k.
template <int kGuide, int kInput, Distance kDistance>
__device__ __forceinline__ void add_tap(const float (&v)[PixelLayout<kGuide, kInput>::kFloats], int k,
                                        float scale, float space, Windows<kGuide, kInput>& w) {
  const float weight = exp2_approx(log_weight<kGuide, kDistance>(v, w.centre[k], scale, space));
  w.totals[k] += weight;
#pragma unroll
  for (int c = 0; c < PixelLayout<kGuide, kInput>::kChannels; ++c)
    w.sums[k][c] += weight * v[kInput == 0 ? c : kGuide + c];
}

template <int kGuide, int kInput, Distance kDistance>
__device__ __forceinline__ void filter_windows(
    const BilateralParams& p, const BilateralTile& t,
    const PixelArrays<PixelLayout<kGuide, kInput>::kFloats>& pixels, float scale, int row, int col,
    Windows<kGuide, kInput>& w) {
  using Layout = PixelLayout<kGuide, kInput>;
  const int radius_y = static_cast<int>(p.kernel_size[0] / 2),
            radius_x = static_cast<int>(p.kernel_size[1] / 2);
#pragma unroll
  for (int k = 0; k < kOutputs; ++k) {
    float v[Layout::kFloats];
    pixels.read((row + k + radius_y) * t.cols + col + radius_x, v);
#pragma unroll
    for (int c = 0; c < kGuide; ++c) w.centre[k][c] = v[c];
  }
#pragma unroll 1
  for (int dx = 0; dx <= 2 * radius_x; ++dx) {
    SpaceLogs space(t, radius_y, dx);
    auto pixel = pixels.at((row + radius_y - t.extent[dx]) * t.cols + col + dx);
    walk_column<2>(t.extent[dx], [&](auto among) {
      float v[Layout::kFloats];
      pixel.read(0, v);
      pixel = pixel.at(t.cols);
      space.next_row<decltype(among)::kFrom>();
#pragma unroll
      for (int k = decltype(among)::kFrom; k <= decltype(among)::kTo; ++k)
        add_tap<kGuide, kInput, kDistance>(v, k, scale, space.window[k], w);
    });
  }
}

// The same in little code: one tap at a time, the windows taking turns as the first.
template <int kGuide, int kInput>
__device__ __forceinline__ void filter_any_scale(
    const BilateralParams& p, const BilateralTile& t,
    const PixelArrays<PixelLayout<kGuide, kInput>::kFloats>& pixels, float scale, int row, int col,
    Windows<kGuide, kInput>& w) {
  using Layout = PixelLayout<kGuide, kInput>;
  const int radius_y = static_cast<int>(p.kernel_size[0] / 2),
            radius_x = static_cast<int>(p.kernel_size[1] / 2);
#pragma unroll 1
  for (int turn = 0; turn < kOutputs; ++turn) {
    Windows<kGuide, kInput> one{};
    float v[Layout::kFloats];
    pixels.read((row + turn + radius_y) * t.cols + col + radius_x, v);
#pragma unroll
    for (int c = 0; c < kGuide; ++c) one.centre[0][c] = v[c];
#pragma unroll 1
    for (int dx = 0; dx <= 2 * radius_x; ++dx) {
#pragma unroll 1
      for (int y = radius_y - t.extent[dx]; y <= radius_y + t.extent[dx]; ++y) {
        pixels.read((row + turn + y) * t.cols + col + dx, v);
        add_tap<kGuide, kInput, Distance::kL2>(v, 0, scale, t.space_y[y] + t.space_x[dx], one);
      }
    }
#pragma unroll
    for (int k = 0; k < kOutputs; ++k) {
      const Windows<kGuide, kInput>& from = k + 1 < kOutputs ? w : one;
      const int next = k + 1 < kOutputs ? k + 1 : 0;
      w.totals[k] = from.totals[next];
#pragma unroll
      for (int c = 0; c < Layout::kChannels; ++c) w.sums[k][c] = from.sums[next][c];
    }
  }
}

// The end of pixel (y, x), whose window is the first of w.
template <int kGuide, int kInput>
__device__ __forceinline__ void store_pixel(const BilateralParams& p, int64_t n, int64_t first, int64_t y,
                                            int64_t x, const Windows<kGuide, kInput>& w) {
  const int64_t channels = p.output.size[1] - first, offset = pixel_offset(p.output, n, first, y, x);
  const float inverse_total = 1 / w.totals[0];
  with_pixels<float>(p.output.dtype, [&](auto storage) {
    using Storage = decltype(storage);
#pragma unroll
    for (int c = 0; c < PixelLayout<kGuide, kInput>::kChannels; ++c)
      if (c < channels)
        static_cast<Storage*>(p.output.data)[offset + c * p.output.stride[1]] =
            FromAcc<Storage>::convert(w.sums[0][c] * inverse_total);
  });
}

template <int kGuide, int kInput>
__device__ __forceinline__ void store_scaled(const Purpose& purpose, int64_t n, int64_t y, int64_t x,
                                             const Windows<kGuide, kInput>& w) {
  const Tensor4& grad = purpose.grad_output;
  const int64_t channels = grad.size[1], plane = grad.size[2] * grad.size[3];
  const int64_t from = pixel_offset(grad, n, 0, y, x);
  float* to = purpose.scaled + (n - purpose.first) * (channels + 1) * plane + y * grad.size[3] + x;
  const float inverse_total = 1 / w.totals[0];
  float dot = 0;
  with_pixels<float>(grad.dtype, [&](auto storage) {
    using Storage = decltype(storage);
#pragma unroll
    for (int c = 0; c < PixelLayout<kGuide, kInput>::kChannels; ++c) {
      if (c >= channels) break;
      const Storage value = static_cast<const Storage*>(grad.data)[from + c * grad.stride[1]];
      const float scaled = to_acc<float>(value) * inverse_total;
      to[c * plane] = scaled;
      dot += scaled * (w.sums[0][c] * inverse_total);
    }
  });
  to[channels * plane] = dot;
}

// The windows take turns as the first, so that the code of an end stands here once.
template <int kGuide, int kInput>
__device__ __forceinline__ void end_windows(const BilateralParams& p, const Purpose& purpose, int64_t n,
                                            int64_t first, int64_t y, int64_t x, Windows<kGuide, kInput>& w) {
#pragma unroll 1
  for (int turn = 0; turn < kOutputs && y + turn < p.input.size[2]; ++turn) {
    if (purpose.scaled == nullptr) {
      store_pixel(p, n, first, y + turn, x, w);
    } else {
      store_scaled(purpose, n, y + turn, x, w);
    }
#pragma unroll
    for (int k = 0; k + 1 < kOutputs; ++k) {
      w.totals[k] = w.totals[k + 1];
#pragma unroll
      for (int c = 0; c < PixelLayout<kGuide, kInput>::kChannels; ++c) w.sums[k][c] = w.sums[k + 1][c];
    }
  }
}

// blockIdx: tile, image, channels kChannels * z on.
template <int kGuide, int kInput>
__global__ void __launch_bounds__(kThreads, 3)
    bilateral_tile_kernel(BilateralParams p, Purpose purpose, unsigned tiles_x) {
  using Layout = PixelLayout<kGuide, kInput>;
  SharedArena arena;
  PixelArrays<Layout::kFloats> pixels;
  const BilateralTile t = tile_arrays(p, arena, pixels);
  const int thread = static_cast<int>(threadIdx.x);
  const int y0 = static_cast<int>(blockIdx.x / tiles_x) * kRows;
  const int x0 = static_cast<int>(blockIdx.x % tiles_x) * kCols;
  const int row = thread / kCols * kOutputs, col = thread % kCols;
  const bool inside = y0 + row < p.output.size[2] && x0 + col < p.output.size[3];
  for (int64_t image = blockIdx.y; image < purpose.images; image += gridDim.y) {
    const int64_t n = purpose.first + image;
    const BilateralScales<float> scales = bilateral_scales<float>(p, n);
    for (int64_t first = blockIdx.z * Layout::kChannels; first < p.output.size[1];
         first += gridDim.z * Layout::kChannels) {
      __syncthreads();  // the last image's tile is no longer read
      make_tables(p, t, y0, x0, scales, thread);
      __syncthreads();
      load_image<kGuide, kInput>(p, t, pixels, n, first, thread);
      __syncthreads();
      if (!inside) continue;
      Windows<kGuide, kInput> w{};
      const float scale = color_scale(scales);
      if constexpr (kGuide == 1) {  // both distances are the same
        filter_windows<kGuide, kInput, Distance::kL2>(p, t, pixels, scale, row, col, w);
      } else if (p.distance == ColorDistance::kL1) {
        filter_windows<kGuide, kInput, Distance::kL1>(p, t, pixels, scale, row, col, w);
      } else if (scale_squares(scale)) {
        filter_windows<kGuide, kInput, Distance::kSquares>(p, t, pixels, scale * scale, row, col, w);
      } else {
        filter_any_scale<kGuide, kInput>(p, t, pixels, scale, row, col, w);
      }
      end_windows(p, purpose, n, first, y0 + row, x0 + col, w);
    }
  }
}

// Calls f with the layout and kernel for these channels; false where there is none.
template <class F>
bool with_kernel(const BilateralParams& p, const F& f) {
  const int64_t guides = p.guidance.size[1];
  const bool same = is_self_guided(p), one = p.input.size[1] == 1;
  if (guides == 1 && same) return f(PixelLayout<1, 0>{}, bilateral_tile_kernel<1, 0>), true;
  if (guides == 1 && one) return f(PixelLayout<1, 1>{}, bilateral_tile_kernel<1, 1>), true;
  if (guides == 1) return f(PixelLayout<1, 3>{}, bilateral_tile_kernel<1, 3>), true;
  if (guides < 4 && same) return f(PixelLayout<3, 0>{}, bilateral_tile_kernel<3, 0>), true;
  if (guides < 4 && one) return f(PixelLayout<3, 1>{}, bilateral_tile_kernel<3, 1>), true;
  if (guides < 4) return f(PixelLayout<3, 3>{}, bilateral_tile_kernel<3, 3>), true;
  if (guides == 4 && same) return f(PixelLayout<4, 0>{}, bilateral_tile_kernel<4, 0>), true;
  return false;
}

int launch_tiles(const BilateralParams& params, const Purpose& purpose, void* stream) {
  const int64_t tiles_x = divide_up(params.input.size[3], kCols);
  const int64_t tiles = tiles_x * divide_up(params.input.size[2], kRows);
  int code = static_cast<int>(cudaErrorInvalidValue);
  with_kernel(params, [&](auto layout, auto kernel) {
    using Layout = decltype(layout);
    constexpr int64_t kMost = 65535;
    const int64_t parts = divide_up(params.input.size[1], Layout::kChannels);
    const dim3 grid(static_cast<unsigned>(tiles),
                    static_cast<unsigned>(purpose.images < kMost ? purpose.images : kMost),
                    static_cast<unsigned>(parts < kMost ? parts : kMost));
    code = launch(kernel, grid, dim3(kThreads), tile_bytes<Layout::kFloats>(params), stream, params, purpose,
                  static_cast<unsigned>(tiles_x));
  });
  return code;
}

}  // namespace

const char* bilateral_tile_cannot_run(const BilateralParams& params, const DeviceLimits& limits) {
  const char* reason = "it is compiled for 1 to 3 channels of guidance, and for 4 that guide themselves";
  with_kernel(params, [&](auto layout, auto) {
    const size_t bytes = tile_bytes<decltype(layout)::kFloats>(params);
    reason = tile_cannot(params, static_cast<int64_t>(bytes), limits);
  });
  return reason;
}

int bilateral_tile_launch(const BilateralParams& params, const LaunchContext& context) {
  return launch_tiles(params, {0, params.input.size[0], {}, nullptr}, context.stream);
}

int bilateral_normalise_launch(const BilateralGradParams& params, int64_t first, int64_t images,
                               float* scaled, void* stream) {
  return launch_tiles(params.forward, {first, images, params.grad_output, scaled}, stream);
}

}  // namespace denoise_ext::cuda
