// The kernels of the convolutions by direct sums, and of their gradients: one table per instruction set.
#pragma once

#include "conv_backward.h"
#include "conv_plan.h"

namespace denoise_ext::cpu {

struct ConvKernels {
  // One task of a plan (see conv_plan.h); scratch has plan.scratch_bytes bytes.
  void (*task_f32)(const ConvPlan& plan, int64_t task, void* scratch);
  void (*task_f64)(const ConvPlan& plan, int64_t task, void* scratch);
  void (*weight_grad_task_f32)(const ConvWeightGradPlan& plan, int64_t task, void* scratch);
  void (*weight_grad_task_f64)(const ConvWeightGradPlan& plan, int64_t task, void* scratch);
  void (*activation_grad_strip)(const ActivationGradPlan& plan, int64_t strip);
};

}  // namespace denoise_ext::cpu
