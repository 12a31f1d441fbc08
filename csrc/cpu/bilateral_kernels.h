// The kernels of the joint bilateral filter and its gradients: one table per instruction set.
#pragma once

#include "bilateral.h"

namespace denoise_ext::cpu {

struct BilateralKernels {
  // One tile of a plan (see bilateral.h); scratch has its plan's scratch_bytes.
  void (*task_f32)(const BilateralPlan& plan, int64_t task, void* scratch);
  void (*fused_task)(const BilateralPlan& plan, int64_t task, void* scratch);
  void (*task_f64)(const BilateralPlan& plan, int64_t task, void* scratch);
  void (*normalise_task_f32)(const BilateralGradPlan& plan, int64_t task, void* scratch);
  void (*normalise_task_f64)(const BilateralGradPlan& plan, int64_t task, void* scratch);
  void (*grad_task_f32)(const BilateralGradPlan& plan, int64_t task, void* scratch);
  void (*grad_task_f64)(const BilateralGradPlan& plan, int64_t task, void* scratch);
};

}  // namespace denoise_ext::cpu
