// What the kernels of an instruction set and the plans that they run must agree on.
#pragma once

namespace denoise_ext::cpu {

struct Vectors {
  const char* isa;
  int bytes;         // of a vector register
  int accumulators;  // vector registers a convolution may use for sums
};

#if defined(__aarch64__)
constexpr Vectors kBaselineVectors{"neon", 16, 24};  // of 32 registers
#else
constexpr Vectors kBaselineVectors{"baseline", 16, 12};  // of 16 registers
#endif
constexpr Vectors kAvx2Vectors{"avx2", 32, 12};      // of 16 registers: 2 hold weights, the rest operands
constexpr Vectors kAvx512Vectors{"avx512", 64, 24};  // of 32 registers: 4 hold weights, the rest operands

}  // namespace denoise_ext::cpu
