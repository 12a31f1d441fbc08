// Taps of the Gaussian kernels.
//
// uint8 images get OpenCV's bit-exact result, as on the CPU (csrc/cpu/gaussian.h): taps are integers of
// 1/256, so that every sum is an integer below 2^24, which float holds exactly.
#pragma once

#include "../params/gaussian.h"
#include "filters.cuh"
#include "primitives.cuh"

namespace denoise_ext::cuda {

enum class Taps { kGaussian, kFixedPoint, kDerivative };

// Doubles that make_taps() works in.
__host__ __device__ constexpr int64_t taps_scratch(int64_t radius) {
  return radius + 3;
}

// A step of make_taps() by one thread: half[0 .. radius] holds exp(-(i / sigma)^2 / 2) by distance i from
// the centre. Leaves in half[radius + 1] the sum over the window and in half[radius + 2] the mean of
// (i / sigma)^2; or, fixed point, the taps themselves in half[0 .. radius].
__device__ __forceinline__ void finish_half(double* half, int radius, double sigma, Taps kind) {
  double sum = half[0], moment = 0;
#pragma unroll 1
  for (int i = 1; i <= radius; ++i) sum += 2 * half[i];
  if (kind == Taps::kDerivative) {
#pragma unroll 1
    for (int i = 1; i <= radius; ++i) {
      const double u = i / sigma;
      if (half[i] > 0) moment += 2 * half[i] * u * u;  // where the tap is 0, u may be infinite
    }
  }
  half[radius + 1] = sum;
  half[radius + 2] = moment / sum;
  if (kind != Taps::kFixedPoint) return;
  // OpenCV's getGaussianKernelFixedPoint_ED: each half is rounded from the edge inwards with the error
  // carried on, the centre makes the sum 256.
  double error = 0, rounded = 0;
#pragma unroll 1
  for (int i = radius; i > 0; --i) {
    const double wanted = half[i] / sum * 256 + error;
    half[i] = rint(wanted);
    error = wanted - half[i];
    rounded += half[i];
  }
  half[0] = 256 - 2 * rounded;
}

template <class Acc>
struct AxisTaps {
  double sigma;
  int radius, padded;
  Taps kind;
  double* half;  // taps_scratch(radius)
  Acc* taps;     // [padded]
};

// Writes taps[0 .. 2 radius] and zeros up to taps[padded - 1], by `threads` threads of the block, this one
// being `thread`; all of the block call it at once. A barrier must follow.
template <class Acc>
__device__ __forceinline__ void make_taps(const AxisTaps<Acc>& axis, int thread, int threads) {
  double* half = axis.half;
  const int radius = axis.radius;
#pragma unroll 1
  for (int i = thread; i <= radius; i += threads) {
    const double u = i / axis.sigma;
    half[i] = exp(-0.5 * u * u);
  }
  __syncthreads();
  if (thread == 0) finish_half(half, radius, axis.sigma, axis.kind);
  __syncthreads();
  const double sum = half[radius + 1], mean = half[radius + 2];
#pragma unroll 1
  for (int i = thread; i < axis.padded; i += threads) {
    const int distance = i < radius ? radius - i : i - radius;
    double tap = 0;
    if (i <= 2 * radius) {
      tap = half[distance];
      if (axis.kind != Taps::kFixedPoint) tap /= sum;
      if (axis.kind == Taps::kDerivative) {
        // d tap / d sigma = tap (u^2 - mean of u^2) / sigma with u = distance / sigma
        const double u = distance / axis.sigma;
        tap = tap > 0 ? (tap * u * u - tap * mean) / axis.sigma : 0.0;
      }
    }
    axis.taps[i] = static_cast<Acc>(tap);
  }
}

// ---- Tables in the workspace, for kernels that need more than the taps ----

// Positions of an axis whose adjoint taps are their own, and the row of the table that holds them (-1:
// the filter's taps). A reflected or replicated pixel is no farther from its source than the radius, so
// these are the radius + 1 positions at either end.
__host__ __device__ inline int64_t edge_count(int64_t extent, int64_t radius) {
  return extent < 2 * radius + 2 ? extent : 2 * radius + 2;
}
__host__ __device__ inline int64_t edge_row(int64_t position, int64_t extent, int64_t radius) {
  if (extent <= 2 * radius + 2 || position <= radius) return position;
  return position >= extent - 1 - radius ? position - (extent - 2 * radius - 2) : -1;
}

// For y and x, in the accumulation type.
struct GaussianTables {
  void* taps[2];        // [sigma rows][2 radius + 1]
  void* derivative[2];  // the same, with respect to sigma; nullptr where not wanted
  void* edges[2];       // [sigma rows][edge_count][2 radius + 1]; nullptr: the filter's taps everywhere
  double* half[2];      // [sigma rows][taps_scratch(radius)]
};

// What tables to make: adjoint taps (where the border is read from inside the image), derivatives.
struct GaussianTableRequest {
  const Tensor4& image;
  const Tensor1& sigma;
  const double (&sigma_row)[2];
  const int64_t (&kernel_size)[2];
  Border border;
  bool adjoint, derivative;
};

// Places the tables from `memory` on (nullptr: only counts) and returns the bytes they take.
int64_t place_gaussian_tables(const GaussianTableRequest& request, void* memory, GaussianTables* tables);

// Fills them; returns a CUDA error code.
int launch_gaussian_tables(const GaussianTableRequest& request, const GaussianTables& tables, void* stream);

inline int64_t sigma_rows(const Tensor1& sigma) {
  return sigma.data == nullptr ? 1 : sigma.size / 2;
}

}  // namespace denoise_ext::cuda
