// The conditions by which a convolution kernel is chosen for a call (host code, no CUDA).
#pragma once

#include <cstddef>
#include <cstdint>

#include "../params/arithmetic.h"
#include "../params/conv.h"
#include "../params/launch.h"
#include "cost.h"

namespace denoise_ext::cuda {

inline int64_t element_bytes(DType dtype) {
  switch (dtype) {
    case DType::kFloat64: return 8;
    case DType::kFloat32: return 4;
    case DType::kUInt8: return 1;
    default: return 2;
  }
}

inline bool is_16_bit(DType dtype) {
  return dtype == DType::kFloat16 || dtype == DType::kBFloat16;
}

// Channels lie beside each other and every pixel's first channel is 16-byte aligned, and they are
// whole vectors, so that a pixel can be read or written 16 bytes at a time.
inline bool has_wide_pixels(const Tensor4& t) {
  const int64_t lanes = 16 / element_bytes(t.dtype);
  if (t.size[1] % lanes != 0 || t.stride[1] != 1) return false;
  for (int axis = 0; axis < 4; ++axis)
    if (axis != 1 && t.size[axis] > 1 && t.stride[axis] % lanes != 0) return false;
  return reinterpret_cast<uintptr_t>(t.data) % 16 == 0;
}

// finish_vector()'s `wide`.
inline bool wide_output(const ConvParams& p) {
  return has_wide_pixels(p.output) && (p.residual.data == nullptr || has_wide_pixels(p.residual));
}

inline double tensor_bytes(const Tensor4& t) {
  if (t.data == nullptr) return 0;
  double bytes = static_cast<double>(element_bytes(t.dtype));
  for (const int64_t size : t.size) bytes *= static_cast<double>(size);
  return bytes;
}

// Input, output and residual, each once.
inline double traffic_bytes(const ConvParams& p) {
  return tensor_bytes(p.input) + tensor_bytes(p.output) + tensor_bytes(p.residual);
}

// Why the tensor cores cannot multiply what the call gives them, or nullptr.
inline const char* tensor_cores_cannot_run(const ConvParams& p, const DeviceLimits& limits) {
  if (p.input.dtype == DType::kFloat64) return "takes float16, bfloat16 and, in tf32, float32 only";
  if (p.input.dtype == DType::kFloat32 && p.precision != Precision::kFast)
    return "takes float32 in tf32 only, which needs precision='fast' or, by default, that PyTorch allows it "
           "(torch.backends.cudnn.conv.fp32_precision)";
  if (limits.compute_capability < 75) return "needs compute capability 7.5";
  if (p.input.dtype != DType::kFloat16 && limits.compute_capability < 80)
    return "bfloat16 and tf32 need compute capability 8.0";
  return nullptr;
}

// What an array takes up in SharedArena.
inline size_t in_arena(size_t bytes) {
  return (bytes + 127) / 128 * 128;
}

constexpr int64_t kMostBlocks = (int64_t{1} << 31) - 1;  // in a grid's first dimension

}  // namespace denoise_ext::cuda
