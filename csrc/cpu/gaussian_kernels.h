// The kernels of the Gaussian filter and its gradients: one table per instruction set.
#pragma once

#include "gaussian.h"

namespace denoise_ext::cpu {

struct GaussianKernels {
  // One task of a plan (see gaussian.h); scratch has plan.scratch_bytes bytes.
  void (*task_f32)(const GaussianPlan& plan, int64_t task, void* scratch);
  void (*task_f64)(const GaussianPlan& plan, int64_t task, void* scratch);
  void (*dense_task_f32)(const GaussianPlan& plan, int64_t task, void* scratch);
  void (*dense_task_u8)(const GaussianPlan& plan, int64_t task, void* scratch);
  void (*sigma_task_f32)(const GaussianPlan& plan, int64_t task, void* scratch);
  void (*sigma_task_f64)(const GaussianPlan& plan, int64_t task, void* scratch);
};

}  // namespace denoise_ext::cpu
