// The filters in their plain form, to be measured against: one output per thread, every tap read from
// global memory through the border rule, the window a run-time argument. This is how OpenCV's CUDA
// module computes a bilateral filter and CV-CUDA a Gaussian (all k x k taps, not separated).
#include "../../csrc/cuda/common.cuh"
#include "../../csrc/cuda/primitives.cuh"

#include <cstdio>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace denoise_ext::cuda {
namespace {

constexpr int kBlockX = 32, kBlockY = 8;  // OpenCV's
constexpr int kChannels = 3;

__device__ __forceinline__ const float* pixel_at(const float* image, int y, int x, int rows, int cols) {
  const int64_t sy = border_index(y, rows, Border::kReflect), sx = border_index(x, cols, Border::kReflect);
  return image + (sy * cols + sx) * kChannels;
}

// input, output: (rows, cols, 3). A circular window; color and space: -1 / (2 sigma^2).
__global__ void plain_bilateral_kernel(const float* input, float* output, int rows, int cols, int radius,
                                       float color, float space) {
  const int x = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const int y = static_cast<int>(blockIdx.y * blockDim.y + threadIdx.y);
  if (x >= cols || y >= rows) return;
  const float* const centre = pixel_at(input, y, x, rows, cols);
  float sum[kChannels] = {}, total = 0;
  for (int dy = -radius; dy <= radius; ++dy)
    for (int dx = -radius; dx <= radius; ++dx) {
      const int square = dy * dy + dx * dx;
      if (square > radius * radius) continue;
      const float* const other = pixel_at(input, y + dy, x + dx, rows, cols);
      float distance = 0;
#pragma unroll
      for (int c = 0; c < kChannels; ++c) distance += fabsf(other[c] - centre[c]);
      const float weight = __expf(static_cast<float>(square) * space + distance * distance * color);
#pragma unroll
      for (int c = 0; c < kChannels; ++c) sum[c] += weight * other[c];
      total += weight;
    }
#pragma unroll
  for (int c = 0; c < kChannels; ++c)
    output[(static_cast<int64_t>(y) * cols + x) * kChannels + c] = sum[c] / total;
}

// input, output: (rows, cols, 3); taps: (2 radius + 1), of sum 1.
__global__ void plain_gaussian_kernel(const float* input, const float* taps, float* output, int rows,
                                      int cols, int radius) {
  const int x = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const int y = static_cast<int>(blockIdx.y * blockDim.y + threadIdx.y);
  if (x >= cols || y >= rows) return;
  float sum[kChannels] = {};
  for (int dy = -radius; dy <= radius; ++dy)
    for (int dx = -radius; dx <= radius; ++dx) {
      const float* const other = pixel_at(input, y + dy, x + dx, rows, cols);
      const float weight = taps[dy + radius] * taps[dx + radius];
#pragma unroll
      for (int c = 0; c < kChannels; ++c) sum[c] += weight * other[c];
    }
#pragma unroll
  for (int c = 0; c < kChannels; ++c) output[(static_cast<int64_t>(y) * cols + x) * kChannels + c] = sum[c];
}

dim3 grid_of(int rows, int cols) {
  return dim3(static_cast<unsigned>((cols + kBlockX - 1) / kBlockX),
              static_cast<unsigned>((rows + kBlockY - 1) / kBlockY));
}

// The emulator has to be told what memory there is.
#if defined(DENOISE_EXT_EMULATE_CUDA)
template <class F>
int start(const float* input, float* output, int64_t elements, const float* taps, int64_t count, const F& f) {
  using cuda_emulator::Use;
  const int64_t stride = 1;
  cuda_emulator::forget_memory();
  cuda_emulator::use_memory(const_cast<float*>(input), 1, &elements, &stride, sizeof(float), Use::kRead);
  cuda_emulator::use_memory(output, 1, &elements, &stride, sizeof(float), Use::kFill);
  if (taps != nullptr)
    cuda_emulator::use_memory(const_cast<float*>(taps), 1, &count, &stride, sizeof(float), Use::kRead);
  try {
    return f();
  } catch (const cuda_emulator::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
#else
template <class F>
int start(const float*, float*, int64_t, const float*, int64_t, const F& f) {
  return f();
}
#endif

}  // namespace
}  // namespace denoise_ext::cuda

using namespace denoise_ext::cuda;

// Both enqueue on the stream and return a CUDA error code.
EXPORT int plain_bilateral(const float* input, float* output, int rows, int cols, int radius, float color,
                           float space, void* stream) {
  return start(input, output, static_cast<int64_t>(rows) * cols * kChannels, nullptr, 0, [&] {
    return launch(plain_bilateral_kernel, grid_of(rows, cols), dim3(kBlockX, kBlockY), 0, stream, input,
                  output, rows, cols, radius, color, space);
  });
}

EXPORT int plain_gaussian(const float* input, const float* taps, float* output, int rows, int cols,
                          int radius, void* stream) {
  return start(input, output, static_cast<int64_t>(rows) * cols * kChannels, taps, 2 * radius + 1, [&] {
    return launch(plain_gaussian_kernel, grid_of(rows, cols), dim3(kBlockX, kBlockY), 0, stream, input, taps,
                  output, rows, cols, radius);
  });
}
