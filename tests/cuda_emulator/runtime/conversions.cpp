// The arithmetic of csrc/cuda/primitives.cuh that the C++ compiler has no instruction for. Conversions of
// 16-bit elements are the host's half of the toolkit's headers.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <memory>

#include "machine.h"

namespace cuda_emulator {

float exp2_flushed(float x) {
  constexpr float kSmallestNormal = 1.17549435e-38f;
  const float y = std::exp2(x);  // a subnormal x gives 1 either way
  return y < kSmallestNormal ? 0.0f : y;
}

uint32_t round_to_tf32(float x) {
  const uint32_t bits = __float_as_uint(x);
  if (std::isnan(x)) return 0x7fffffffu;
  if (std::isinf(x)) return bits;
  return (bits + 0x1000u) & 0xffffe000u;  // half of the last bit kept is added: ties go away from zero
}

float value_of_float16(uint16_t bits) {
  static const auto values = [] {
    auto table = std::make_unique<float[]>(65536);
    for (uint32_t i = 0; i < 65536; ++i) {
      __half_raw raw;
      raw.x = static_cast<unsigned short>(i);
      table[i] = __half2float(__half(raw));
    }
    return table;
  }();
  return values[bits];
}

uint16_t round_to_float16(float x) {
  return __half_raw(__float2half_rn(x)).x;
}

uint16_t round_to_bfloat16(float x) {
  return __nv_bfloat16_raw(__float2bfloat16_rn(x)).x;
}

}  // namespace cuda_emulator
