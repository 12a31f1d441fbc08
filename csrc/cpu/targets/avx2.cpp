// Kernels for x86-64 with AVX2 and FMA (Haswell, Zen and later).
#if defined(__x86_64__)

#include <cmath>

#include "../isa.h"
#include "../storage.h"

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")

namespace denoise_ext::cpu {
namespace {

constexpr int kVectorBytes = 32;
constexpr int kAccumulators = 12;  // of 16 registers: 2 hold weights, the rest operands

#include "kernels.inl"

}  // namespace

extern const KernelTable kAvx2Kernels;
const KernelTable kAvx2Kernels = kernel_table("avx2");

}  // namespace denoise_ext::cpu

#pragma GCC pop_options

#endif  // __x86_64__
