// A weight of conv2d packed once for many calls, on CUDA.
#pragma once

#include "conv.h"

namespace denoise_ext::cuda {

// A weight in the order in which a kernel reads it, as a dense tensor. No two kernels' tensors for one weight
// are alike.
struct PackedLayout {
  int dims;
  int64_t size[6];
  DType dtype;
  bool tf32;  // float32 numbers rounded to tf32
};

// Fills in `layout` and returns nullptr, or why `kernel` packs no such weight. Of `params` all counts that
// the weight determines, and nothing else.
const char* packed_layout(const ConvParams& params, const char* kernel, const DeviceLimits& limits,
                          PackedLayout* layout);
// The kernel that can run and reads a weight of this layout, or nullptr.
const char* kernel_of_packed(const ConvParams& params, const PackedLayout& layout,
                             const DeviceLimits& limits);

// To pack a weight: packed_layout() has taken it.
struct ConvPacking {
  ConvParams params;
  const char* kernel;
  void* packed;
};
int run(const ConvPacking& packing, const LaunchContext& context);
int64_t workspace_bytes(const ConvPacking& packing, const DeviceLimits& limits);

// conv2d with a weight that is packed for `kernel`, which therefore runs.
struct PackedConv {
  ConvParams params;
  const char* kernel;
  const void* packed;
};
int run(const PackedConv& conv, const LaunchContext& context);
int64_t workspace_bytes(const PackedConv& conv, const DeviceLimits& limits);
void explain(const PackedConv& conv, const DeviceLimits& limits, char* text, int bytes);

}  // namespace denoise_ext::cuda
