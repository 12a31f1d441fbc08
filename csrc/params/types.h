// Plain types shared by every native layer. No torch, no CUDA, no STL.
#pragma once

#include <cstdint>

namespace denoise_ext {

enum class DType : int32_t { kFloat32, kFloat64, kBFloat16, kFloat16, kUInt8 };

// How a pixel outside the image is read. kReflect is OpenCV's BORDER_REFLECT_101: the edge pixel
// is not repeated, and the reflection folds as often as the kernel needs.
enum class Border : int32_t { kReflect, kReplicate, kConstant, kCircular };

enum class Activation : int32_t {
  kNone,
  kRelu,
  kLeakyRelu,
  kPrelu,
  // From here on is_long().
  kSigmoid,
  kTanh,
  // From here on the gradient does not follow from the output: PyTorch computes it, from the input.
  kGelu,
  kGeluTanh,
  kSilu,
  kHardswish,
  kHardsigmoid,
  kRelu6
};

// Whether an activation is more than a comparison and a product. Kernels keep such code out of their
// inner loops.
constexpr bool is_long(Activation activation) {
  return activation >= Activation::kSigmoid;
}
constexpr bool has_gradient_by_output(Activation activation) {
  return activation <= Activation::kTanh;
}

enum class ResidualPosition : int32_t { kBeforeActivation, kAfterActivation };

enum class Pooling : int32_t { kMaximum, kAverage };

// How far a kernel may leave direct float32 arithmetic: kStrict never; kDefault: algorithms in float32
// with more rounding (Winograd); kFast: also reduced factors (tf32 on tensor cores), bigger transforms.
// CUDA kernels get kFast for "default" too where PyTorch's own convolutions may take tf32.
enum class Precision : int32_t { kStrict, kDefault, kFast };

// A four-dimensional tensor; sizes and strides (in elements) are in the order N, C, H, W whatever
// the memory layout is. `data == nullptr` means "not given".
struct Tensor4 {
  void* data;
  int64_t size[4];
  int64_t stride[4];
  DType dtype;
};

// A one-dimensional tensor, e.g. a bias.
struct Tensor1 {
  const void* data;
  int64_t size;
  int64_t stride;
  DType dtype;
};

}  // namespace denoise_ext
