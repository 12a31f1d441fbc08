// What conv2d_out, conv2d_pack and conv2d_resampled_out share.
#pragma once

#include "../cpu/conv_pack.h"
#include "../cpu/conv_params.h"
#include "../params/conv.h"
#include "common.h"

namespace denoise_ext::ops {

cpu::ConvAlgorithm parse_algorithm(const std::string& name, const char* op);

// Raises where the CPU's kernels cannot take the packed weight or the algorithm (ops/cpu/conv2d_pack.cpp).
void check_cpu(const cpu::ConvParams& params, const char* op);

// The weight in the order of the CPU's kernels (ops/cpu/conv2d_pack.cpp).
Tensor pack_on_cpu(const Tensor& weight, const std::string& algorithm, int64_t groups,
                   const cpu::PackGeometry& geometry, const char* op);

// The same for a named CUDA kernel (ops/conv2d_pack.cpp, in builds with CUDA).
Tensor pack_on_cuda(const Tensor& weight, const std::string& kernel, int64_t groups, Precision precision,
                    const char* op);

// What the CUDA kernels are given of a packed weight: the kernel it is packed for, and its memory.
struct PackedView {
  const char* kernel;  // nullptr: there is none
  Tensor1 memory;
};
PackedView packed_view(const cuda::ConvParams& params, const std::optional<Tensor>& packed,
                       const Tensor& input, const char* op);

}  // namespace denoise_ext::ops
