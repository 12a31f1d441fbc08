// The toolkit's header has host bodies for half's conversions, comparisons and + - * /; the
// functions below it keeps for nvcc. Each rounds once, as the instructions do.
#pragma once
#include_next <cuda_fp16.h>

#include <cmath>

inline __half __hfma(__half a, __half b, __half c) {
  // Exact in double: 11 + 11 bits of product, and a sum that double rounds far below half's last bit.
  return __double2half(std::fma(static_cast<double>(__half2float(a)), static_cast<double>(__half2float(b)),
                                static_cast<double>(__half2float(c))));
}
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) {
  return __halves2half2(__hfma(__low2half(a), __low2half(b), __low2half(c)),
                        __hfma(__high2half(a), __high2half(b), __high2half(c)));
}

#define CUDA_EMULATOR_HALF_FUNCTION(name, function)    \
  inline __half name(__half a) {                       \
    return __float2half_rn(function(__half2float(a))); \
  }
CUDA_EMULATOR_HALF_FUNCTION(hexp, std::exp)
CUDA_EMULATOR_HALF_FUNCTION(hexp2, std::exp2)
CUDA_EMULATOR_HALF_FUNCTION(hlog, std::log)
CUDA_EMULATOR_HALF_FUNCTION(hsqrt, std::sqrt)
CUDA_EMULATOR_HALF_FUNCTION(hrsqrt, 1.0f / std::sqrt)
CUDA_EMULATOR_HALF_FUNCTION(hrcp, 1.0f /)
#undef CUDA_EMULATOR_HALF_FUNCTION
