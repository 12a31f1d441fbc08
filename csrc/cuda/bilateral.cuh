// What the bilateral kernels share: the weight of a pair of pixels.
#pragma once

#include "../params/bilateral.h"
#include "filters.cuh"
#include "primitives.cuh"

namespace denoise_ext::cuda {

// e^x: for float 2^(x log2 e) by the special function unit (2 ulp, flushed to zero below 2^-126).
__device__ __forceinline__ float fast_exp(float x) {
  constexpr float kLog2E = 1.4426950408889634f;
  return exp2_approx(x * kLog2E);
}
__device__ __forceinline__ double fast_exp(double x) {
  return exp(x);
}

constexpr float kLargestFloat = 3.4028234663852886e38f;

// factor / sigma as a finite number, or equal values (difference 0) would get 0 * infinity.
__device__ __forceinline__ float inverse(float factor, float sigma) {
  return fminf(factor / sigma, kLargestFloat);
}
__device__ __forceinline__ double inverse(double factor, double sigma) {
  return fmin(factor / sigma, 1.7976931348623157e308);
}

// The sigmas of one image.
template <class Acc>
struct BilateralScales {
  Acc color, y, x;  // sqrt(1/2) / sigma
};

template <class Acc>
__device__ __forceinline__ BilateralScales<Acc> bilateral_scales(const BilateralParams& p, int64_t n) {
  constexpr Acc kRootHalf = static_cast<Acc>(0.70710678118654752);
  const int64_t color = p.sigma_color.size == 1 ? 0 : n, space = p.sigma_space.size == 2 ? 0 : n;
  const auto scale = [](double sigma) { return inverse(kRootHalf, static_cast<Acc>(sigma)); };
  return {scale(sigma_value(p.sigma_color, p.sigma_color_value, color)),
          scale(sigma_value(p.sigma_space, p.sigma_space_row[0], 2 * space)),
          scale(sigma_value(p.sigma_space, p.sigma_space_row[1], 2 * space + 1))};
}

// The square of (distance in pixels) sqrt(1/2) / sigma.
template <class Acc>
__device__ __forceinline__ Acc space_exponent(int distance, Acc scale) {
  const Acc scaled = static_cast<Acc>(distance) * scale;
  return scaled * scaled;
}

// Columns of the window in row dy: dx = -extent .. extent.
__device__ __forceinline__ int window_extent(const BilateralParams& p, int dy) {
  const int radius = static_cast<int>(p.kernel_size[1] / 2);
  if (!p.circle) return radius;
  int extent = static_cast<int>(sqrtf(static_cast<float>(radius * radius - dy * dy)));
  while (extent * extent > radius * radius - dy * dy) --extent;
  while ((extent + 1) * (extent + 1) <= radius * radius - dy * dy) ++extent;
  return extent;
}

// One channel of a pixel anywhere: a zero where the row or the column is -1 (see border_index()).
template <class Acc>
__device__ __forceinline__ Acc pixel_or_zero(const Tensor4& t, int64_t n, int64_t c, int64_t y, int64_t x) {
  return y < 0 || x < 0 ? Acc(0) : load_pixel<Acc>(t.data, pixel_offset(t, n, c, y, x), t.dtype);
}

struct Position {
  int64_t y, x;
};

// Where a position in or around the image is read from.
__device__ __forceinline__ Position source_of(const BilateralParams& p, int64_t y, int64_t x) {
  return {border_index(y, p.input.size[2], p.border), border_index(x, p.input.size[3], p.border)};
}

// d^2 / (2 sigma_color^2) between two pixels. Scaling comes before squaring, whose result may underflow.
template <class Acc>
__device__ __forceinline__ Acc color_exponent(const BilateralParams& p, int64_t n, Position a, Position b,
                                              Acc scale) {
  const bool l1 = p.distance == ColorDistance::kL1;
  Acc sum = 0;
#pragma unroll 1
  for (int64_t c = 0; c < p.guidance.size[1]; ++c) {
    const Acc difference =
        pixel_or_zero<Acc>(p.guidance, n, c, a.y, a.x) - pixel_or_zero<Acc>(p.guidance, n, c, b.y, b.x);
    const Acc scaled = difference * scale;
    sum += l1 ? fabs(difference) : scaled * scaled;
  }
  if (!l1) return sum;
  sum *= scale;
  return sum * sum;
}

// Channels that one pass over the window sums.
constexpr int kChannelChunk = 4;

// The sum of the weights around pixel (y, x) and of weights times channels first .. first + 3 of input.
template <class Acc>
__device__ __forceinline__ Acc sum_window(const BilateralParams& p, const BilateralScales<Acc>& scales,
                                          int64_t n, int64_t y, int64_t x, int64_t first, int64_t channels,
                                          Acc (&sums)[kChannelChunk]) {
  const int radius = static_cast<int>(p.kernel_size[0] / 2);
  Acc total = 0;
  for (int dy = -radius; dy <= radius; ++dy) {
    const int extent = window_extent(p, dy);
    const Acc space_y = space_exponent(dy, scales.y);
#pragma unroll 1
    for (int dx = -extent; dx <= extent; ++dx) {
      const Position from = source_of(p, y + dy, x + dx);
      const Acc color = color_exponent(p, n, {y, x}, from, scales.color);
      const Acc weight = fast_exp(-(space_y + space_exponent(dx, scales.x)) - color);
      total += weight;
#pragma unroll
      for (int c = 0; c < kChannelChunk; ++c)
        if (first + c < channels)
          sums[c] += weight * pixel_or_zero<Acc>(p.input, n, first + c, from.y, from.x);
    }
  }
  return total;
}

}  // namespace denoise_ext::cuda
