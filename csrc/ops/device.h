// Where an operator runs: each operator is written once, over a device that starts the kernels.
//
// A device names no operator. compute() finds by the type of the parameters what their own headers declare:
//   cpu::run(params, threads), cpu::explain(params, kernels)                                in cpu/x.h
//   cuda::run(params, context), cuda::workspace_bytes(params, limits), cuda::explain(...)   in params/x.h
#pragma once

#include "../cpu/conv_params.h"
#include "../cpu/isa.h"
#include "../params/conv.h"
#include "../params/launch.h"
#include "common.h"
#include "explain.h"
#include "tf32.h"

namespace denoise_ext::ops {

struct Cpu {
  static constexpr bool kCuda = false;
  using ConvParams = cpu::ConvParams;
  using ConvWeightGradParams = denoise_ext::ConvWeightGradParams;

  static Precision precision(Precision wanted, const Tensor&) { return wanted; }

  template <class Params>
  static void compute(const Params& params, const Tensor&, const char*) {
    if (Explanation* explanation = Explanation::current())
      return explanation->add(explain(params, cpu::kernels()));
    run(params, torch_threads());
  }
};

#if defined(DENOISE_EXT_WITH_CUDA)
// The device of `like` made current for the life of this object, its current stream and its limits.
class CudaCall {
 public:
  CudaCall(const Tensor& like, const char* op);
  ~CudaCall();
  CudaCall(const CudaCall&) = delete;

  const cuda::DeviceLimits& limits() const { return context_.limits; }

  // Allocates the launcher's workspace, launches, and raises on a CUDA error.
  template <class Params>
  void launch(const Params& params) {
    const Tensor workspace = allocate(workspace_bytes(params, context_.limits));
    check(run(params, context_));
  }

 private:
  Tensor allocate(int64_t bytes);
  void check(int code) const;

  const Tensor& like_;
  const char* op_;
  cuda::LaunchContext context_{};
  struct Guard;
  Guard* guard_;
};

struct Cuda {
  static constexpr bool kCuda = true;
  using ConvParams = cuda::ConvParams;
  using ConvWeightGradParams = cuda::ConvWeightGradParams;

  // What "default" is for PyTorch's own convolutions at this moment.
  static Precision precision(Precision wanted, const Tensor& input) {
    const bool follows = wanted == Precision::kDefault && input.scalar_type() == ScalarType::Float;
    return follows && tf32_allowed() ? Precision::kFast : wanted;
  }

  // Of the device of `like`, or of the architecture that an explanation is about.
  static cuda::DeviceLimits limits(const Tensor& like, const char* op) {
    if (const Explanation* explanation = Explanation::current())
      return cuda::typical_limits(explanation->compute_capability());
    return CudaCall(like, op).limits();
  }

  template <class Params>
  static void compute(const Params& params, const Tensor& like, const char* op) {
    if (Explanation* explanation = Explanation::current()) {
      char text[4096];
      explain(params, limits(like, op), text, sizeof text);
      return explanation->add(text);
    }
    CudaCall(like, op).launch(params);
  }
};
#endif

}  // namespace denoise_ext::ops
