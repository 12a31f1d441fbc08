// The kernels of Winograd's algorithm, and what else is products of such tiles: one table per instruction
// set.
#pragma once

#include "gdn.h"
#include "winograd.h"
#include "winograd_weight_grad.h"

namespace denoise_ext::cpu {

struct WinogradKernels {
  // Task `index` of a plan (see winograd.h), while the input of task `next` is prefetched.
  void (*block_2)(const WinogradPlan& plan, int64_t index, int64_t next, void* scratch);
  void (*block_4)(const WinogradPlan& plan, int64_t index, int64_t next, void* scratch);
  void (*block_6)(const WinogradPlan& plan, int64_t index, int64_t next, void* scratch);
  // All transformed weights of one channel.
  void (*pack_2)(const WinogradPackPlan& plan, int64_t channel);
  void (*pack_4)(const WinogradPackPlan& plan, int64_t channel);
  void (*pack_6)(const WinogradPackPlan& plan, int64_t channel);
  void (*weight_grad_task)(const WinogradWeightGradPlan& plan, int64_t task, void* scratch);
  // Divisive normalisation of a piece of a row, by the same products (gdn.h).
  void (*gdn_piece)(const GdnPlan& plan, int64_t task, void* scratch);
};

}  // namespace denoise_ext::cpu
