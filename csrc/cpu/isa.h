// Run-time choice of the instruction set: one table of kernels per ISA, filled by targets/*.cpp.
#pragma once

#include <string>
#include <vector>

#include "bilateral.h"
#include "conv_backward.h"
#include "conv_plan.h"
#include "gaussian.h"
#include "winograd.h"
#include "winograd_weight_grad.h"

namespace denoise_ext::cpu {

struct KernelTable {
  const char* isa;
  int vector_bytes;
  int accumulators;  // vector registers a convolution may use for sums

  // Convolution: one task of a plan (see conv_plan.h); scratch has plan.scratch_bytes bytes.
  void (*conv_task_f32)(const ConvPlan& plan, int64_t task, void* scratch);
  void (*conv_task_f64)(const ConvPlan& plan, int64_t task, void* scratch);
  // Winograd convolution: block `index` of a plan (see winograd.h), while block `next` is prefetched.
  void (*winograd_block_4)(const WinogradPlan& plan, int64_t index, int64_t next, void* scratch);
  void (*winograd_block_6)(const WinogradPlan& plan, int64_t index, int64_t next, void* scratch);
  // All transformed weights of one channel.
  void (*winograd_pack_4)(const WinogradPackPlan& plan, int64_t channel);
  void (*winograd_pack_6)(const WinogradPackPlan& plan, int64_t channel);
  void (*conv_weight_grad_task_f32)(const ConvWeightGradPlan& plan, int64_t task, void* scratch);
  void (*conv_weight_grad_task_f64)(const ConvWeightGradPlan& plan, int64_t task, void* scratch);
  void (*winograd_weight_grad_task)(const WinogradWeightGradPlan& plan, int64_t task, void* scratch);
  void (*activation_grad_strip)(const ActivationGradPlan& plan, int64_t strip);

  // Gaussian blur: one task of a plan (see gaussian.h); scratch has plan.scratch_bytes bytes.
  void (*gaussian_task_f32)(const GaussianPlan& plan, int64_t task, void* scratch);
  void (*gaussian_task_f64)(const GaussianPlan& plan, int64_t task, void* scratch);
  void (*gaussian_dense_task_f32)(const GaussianPlan& plan, int64_t task, void* scratch);
  void (*gaussian_dense_task_u8)(const GaussianPlan& plan, int64_t task, void* scratch);
  void (*gaussian_sigma_task_f32)(const GaussianPlan& plan, int64_t task, void* scratch);
  void (*gaussian_sigma_task_f64)(const GaussianPlan& plan, int64_t task, void* scratch);

  // Joint bilateral filter: one tile of a plan (see bilateral.h); scratch has its plan's scratch_bytes.
  void (*bilateral_task_f32)(const BilateralPlan& plan, int64_t task, void* scratch);
  void (*bilateral_fused_task)(const BilateralPlan& plan, int64_t task, void* scratch);
  void (*bilateral_task_f64)(const BilateralPlan& plan, int64_t task, void* scratch);
  void (*bilateral_normalise_task_f32)(const BilateralGradPlan& plan, int64_t task, void* scratch);
  void (*bilateral_normalise_task_f64)(const BilateralGradPlan& plan, int64_t task, void* scratch);
  void (*bilateral_grad_task_f32)(const BilateralGradPlan& plan, int64_t task, void* scratch);
  void (*bilateral_grad_task_f64)(const BilateralGradPlan& plan, int64_t task, void* scratch);
};

// The table in use: the best ISA of this processor, or the one forced by DENOISE_EXT_CPU_ISA or
// force_isa(). Throws std::runtime_error when the variable names none of isa_available().
const KernelTable& kernels();

std::vector<std::string> isa_available();  // best first
void force_isa(const std::string& name);   // "" returns to the automatic choice

}  // namespace denoise_ext::cpu
