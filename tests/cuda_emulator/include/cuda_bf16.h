// As cuda_fp16.h beside it, for bfloat16.
#pragma once
#include_next <cuda_bf16.h>

#include <cmath>

inline __nv_bfloat16 __hfma(__nv_bfloat16 a, __nv_bfloat16 b, __nv_bfloat16 c) {
  return __double2bfloat16(std::fma(static_cast<double>(__bfloat162float(a)),
                                    static_cast<double>(__bfloat162float(b)),
                                    static_cast<double>(__bfloat162float(c))));
}
inline __nv_bfloat162 __hfma2(__nv_bfloat162 a, __nv_bfloat162 b, __nv_bfloat162 c) {
  return __halves2bfloat162(__hfma(__low2bfloat16(a), __low2bfloat16(b), __low2bfloat16(c)),
                            __hfma(__high2bfloat16(a), __high2bfloat16(b), __high2bfloat16(c)));
}

#define CUDA_EMULATOR_BFLOAT16_FUNCTION(name, function)        \
  inline __nv_bfloat16 name(__nv_bfloat16 a) {                 \
    return __float2bfloat16_rn(function(__bfloat162float(a))); \
  }
CUDA_EMULATOR_BFLOAT16_FUNCTION(hexp, std::exp)
CUDA_EMULATOR_BFLOAT16_FUNCTION(hexp2, std::exp2)
CUDA_EMULATOR_BFLOAT16_FUNCTION(hlog, std::log)
CUDA_EMULATOR_BFLOAT16_FUNCTION(hsqrt, std::sqrt)
CUDA_EMULATOR_BFLOAT16_FUNCTION(hrsqrt, 1.0f / std::sqrt)
CUDA_EMULATOR_BFLOAT16_FUNCTION(hrcp, 1.0f /)
#undef CUDA_EMULATOR_BFLOAT16_FUNCTION
