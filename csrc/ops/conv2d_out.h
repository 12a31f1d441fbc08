// What conv2d_out, conv2d_pack and conv2d_resampled_out share.
#pragma once

#include "../cpu/conv_params.h"
#include "common.h"

namespace denoise_ext::ops {

cpu::ConvAlgorithm parse_algorithm(const std::string& name, const char* op);

// Raises where the CPU's kernels cannot take the packed weight or the algorithm (ops/cpu/conv2d_pack.cpp).
void check_cpu(const cpu::ConvParams& params, const char* op);

}  // namespace denoise_ext::ops
