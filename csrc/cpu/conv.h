// Convolutions on the CPU: which algorithm a call takes, and the call.
#pragma once

#include <string>

#include "conv_params.h"
#include "isa.h"
#include "threads.h"

namespace denoise_ext::cpu {

// The algorithm for `params`: the one it names or its weights are packed for, else the cheapest of those
// that apply and that its precision allows.
ConvAlgorithm choose_conv_algorithm(const ConvParams& params);

// Why `params` cannot take the algorithm it names, or nullptr.
const char* conv_algorithm_obstacle(const ConvParams& params);

// A line per algorithm, the chosen one first, with the reason for the others.
std::string explain(const ConvParams& params, const KernelTable& table);

// Runs the whole convolution. Tensors are on the CPU, sizes agree (the ops layer checks them), and
// conv_algorithm_obstacle() finds none.
void run(const ConvParams& params, const Threads& threads);

}  // namespace denoise_ext::cpu
