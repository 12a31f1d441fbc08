// Kernels for what every processor of the architecture has: SSE2 on x86-64, NEON on aarch64.

#include <cmath>

#include "../isa.h"
#include "../storage.h"

namespace denoise_ext::cpu {
namespace {

constexpr int kVectorBytes = 16;
#if defined(__aarch64__)
constexpr int kAccumulators = 24;  // of 32 registers
#else
constexpr int kAccumulators = 12;  // of 16 registers
#endif

#include "kernels.inl"

}  // namespace

extern const KernelTable kBaselineKernels;
#if defined(__aarch64__)
const KernelTable kBaselineKernels = kernel_table("neon");
#else
const KernelTable kBaselineKernels = kernel_table("baseline");
#endif

}  // namespace denoise_ext::cpu
