// Run-time choice of the instruction set: the kernels that targets/*.cpp compile for each.
#pragma once

#include <string>
#include <vector>

namespace denoise_ext::cpu {

// The kernels of one operator group: conv_kernels.h, winograd_kernels.h and so on.
struct ConvKernels;
struct WinogradKernels;
struct GaussianKernels;
struct BilateralKernels;
struct MotionKernels;
struct CoderKernels;

struct KernelTable {
  const char* isa;
  int vector_bytes;
  int accumulators;  // vector registers a convolution may use for sums
  const ConvKernels* conv;
  const WinogradKernels* winograd;
  const GaussianKernels* gaussian;
  const BilateralKernels* bilateral;
  const MotionKernels* motion;
  const CoderKernels* coder;
};

// The table in use: the best ISA of this processor, or the one forced by DENOISE_EXT_CPU_ISA or
// force_isa(). Throws std::runtime_error when the variable names none of isa_available().
const KernelTable& kernels();

// The line of explain() for the chosen kernel.
std::string chosen_line(const std::string& kernel, const KernelTable& table);

std::vector<std::string> isa_available();  // best first
void force_isa(const std::string& name);   // "" returns to the automatic choice

}  // namespace denoise_ext::cpu
