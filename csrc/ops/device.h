// Where an operator runs: each operator is written once, over a device that starts the kernels.
#pragma once

#include "../cpu/bilateral.h"
#include "../cpu/conv.h"
#include "../cpu/conv_backward.h"
#include "../cpu/gaussian.h"
#include "../params/bilateral.h"
#include "../params/conv.h"
#include "../params/gaussian.h"
#include "common.h"

namespace denoise_ext::ops {

#if !defined(DENOISE_EXT_EMULATE_CUDA)
struct Cpu {
  static constexpr bool kCuda = false;
  static void conv(const ConvParams& params, const Tensor&, const char*) {
    cpu::run_conv(params, torch_threads());
  }
  static bool conv_masks_input(const ConvParams&, const Tensor&, const char*) { return false; }
  static void conv_weight_grad(const ConvWeightGradParams& params, const Tensor&, const char*) {
    cpu::run_conv_weight_grad(params, torch_threads());
  }
  static void activation_grad(const ActivationGradParams& params, const Tensor&, const char*) {
    cpu::run_activation_grad(params, torch_threads());
  }
  static void gaussian(const GaussianParams& params, const Tensor&, const char*) {
    cpu::run_gaussian(params, torch_threads());
  }
  static void gaussian_sigma_grad(const GaussianSigmaGradParams& params, const Tensor&, const char*) {
    cpu::run_gaussian_sigma_grad(params, torch_threads());
  }
  static void bilateral(const BilateralParams& params, const Tensor&, const char*) {
    cpu::run_bilateral(params, torch_threads());
  }
  static void bilateral_grad(const BilateralGradParams& params, const Tensor&, const char*) {
    cpu::run_bilateral_grad(params, torch_threads());
  }
};
#endif

#if defined(DENOISE_EXT_WITH_CUDA) || defined(DENOISE_EXT_EMULATE_CUDA)
// The device of `like` made current for the life of this object, its current stream and its limits.
class CudaCall {
 public:
  CudaCall(const Tensor& like, const char* op);
  ~CudaCall();
  CudaCall(const CudaCall&) = delete;

  const DeviceLimits& limits() const { return context_.limits; }

  // Allocates the workspace that the launcher wants, launches, and raises on a CUDA error.
  template <class Params>
  void run(const Params& params, int64_t (*workspace_bytes)(const Params&, const DeviceLimits&),
           int (*launch)(const Params&, const LaunchContext&)) {
    const Tensor workspace = allocate(workspace_bytes(params, context_.limits));
    check(launch(params, context_));
  }

 private:
  Tensor allocate(int64_t bytes);
  void check(int code) const;

  const Tensor& like_;
  const char* op_;
  LaunchContext context_{};
  struct Guard;
  Guard* guard_;
};

struct Cuda {
  static constexpr bool kCuda = true;
  static void conv(const ConvParams& params, const Tensor& like, const char* op) {
    CudaCall(like, op).run(params, cuda::conv_workspace_bytes, cuda::conv);
  }
  static bool conv_masks_input(const ConvParams& params, const Tensor& like, const char* op) {
    return cuda::conv_masks_input(params, CudaCall(like, op).limits());
  }
  static void conv_weight_grad(const ConvWeightGradParams& params, const Tensor& like, const char* op) {
    CudaCall(like, op).run(params, cuda::conv_weight_grad_workspace_bytes, cuda::conv_weight_grad);
  }
  static void activation_grad(const ActivationGradParams& params, const Tensor& like, const char* op) {
    CudaCall(like, op).run(params, cuda::activation_grad_workspace_bytes, cuda::activation_grad);
  }
  static void gaussian(const GaussianParams& params, const Tensor& like, const char* op) {
    CudaCall(like, op).run(params, cuda::gaussian_workspace_bytes, cuda::gaussian);
  }
  static void gaussian_sigma_grad(const GaussianSigmaGradParams& params, const Tensor& like, const char* op) {
    CudaCall(like, op).run(params, cuda::gaussian_sigma_grad_workspace_bytes, cuda::gaussian_sigma_grad);
  }
  static void bilateral(const BilateralParams& params, const Tensor& like, const char* op) {
    CudaCall(like, op).run(params, cuda::bilateral_workspace_bytes, cuda::bilateral);
  }
  static void bilateral_grad(const BilateralGradParams& params, const Tensor& like, const char* op) {
    CudaCall(like, op).run(params, cuda::bilateral_grad_workspace_bytes, cuda::bilateral_grad);
  }
};
#endif

}  // namespace denoise_ext::ops
