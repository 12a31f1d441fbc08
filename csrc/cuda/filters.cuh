// What the Gaussian and the bilateral kernels share: pixels of a dtype known at run time, sigmas, and
// sums in double over a block. The dtype is a run-time switch around the loops that load and store, so
// that one compiled kernel serves float32, float16, bfloat16 and uint8.
#pragma once

#include "common.cuh"

namespace denoise_ext::cuda {

// Calls f(Storage{}) on the device; Acc double stands for float64 alone.
template <class Acc, class F>
__device__ __forceinline__ void with_pixels(DType dtype, const F& f) {
  if constexpr (sizeof(Acc) == sizeof(double)) {
    f(double{});
  } else {
    switch (dtype) {
      case DType::kBFloat16: f(BFloat16{}); break;
      case DType::kFloat16: f(Float16{}); break;
      case DType::kUInt8: f(uint8_t{}); break;
      default: f(float{}); break;
    }
  }
}

// One value at `offset` elements of `data`.
template <class Acc>
__device__ __forceinline__ Acc load_pixel(const void* data, int64_t offset, DType dtype) {
  Acc value = 0;
  with_pixels<Acc>(
      dtype, [&](auto storage) { value = to_acc<Acc>(static_cast<const decltype(storage)*>(data)[offset]); });
  return value;
}
template <class Acc>
__device__ __forceinline__ void store_pixel(void* data, int64_t offset, DType dtype, Acc value) {
  with_pixels<Acc>(dtype, [&](auto storage) {
    using Storage = decltype(storage);
    static_cast<Storage*>(data)[offset] = FromAcc<Storage>::convert(value);
  });
}

__device__ __forceinline__ int64_t pixel_offset(const Tensor4& t, int64_t n, int64_t c, int64_t y,
                                                int64_t x) {
  return n * t.stride[0] + c * t.stride[1] + y * t.stride[2] + x * t.stride[3];
}

// Four neighbours in shared memory, 16-byte aligned (32-byte for double).
__device__ __forceinline__ void load4(const float* from, float (&v)[4]) {
  const float4 four = *reinterpret_cast<const float4*>(from);
  v[0] = four.x;
  v[1] = four.y;
  v[2] = four.z;
  v[3] = four.w;
}
__device__ __forceinline__ void load4(const double* from, double (&v)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] = from[i];
}
__device__ __forceinline__ void store4(float* to, const float (&v)[4]) {
  *reinterpret_cast<float4*>(to) = make_float4(v[0], v[1], v[2], v[3]);
}
__device__ __forceinline__ void store4(double* to, const double (&v)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) to[i] = v[i];
}

// Element `index` of a sigma: from device memory, or where that is nullptr by value.
__device__ __forceinline__ double sigma_value(const Tensor1& sigma, double by_value, int64_t index) {
  if (sigma.data == nullptr) return by_value;
  return sigma.dtype == DType::kFloat64 ? static_cast<const double*>(sigma.data)[index * sigma.stride]
                                        : static_cast<const float*>(sigma.data)[index * sigma.stride];
}

// The sum of `value` over the block's threads, in a fixed tree, for thread 0; 0 for the others. sums:
// shared, one per thread. All threads call it.
__device__ __forceinline__ double block_sum(double value, double* sums) {
  const int thread = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x);
  const int threads = static_cast<int>(blockDim.x * blockDim.y);
  __syncthreads();
  sums[thread] = value;
  int count = threads;
  while (count > 1) {
    const int half = (count + 1) / 2;
    __syncthreads();
    if (thread < count - half) sums[thread] += sums[thread + half];
    count = half;
  }
  return thread == 0 ? sums[0] : 0.0;
}

}  // namespace denoise_ext::cuda
