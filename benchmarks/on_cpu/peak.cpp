// What the processor does at best: fused multiply-adds in registers, nothing else. Compiled by
// machine.py for the instruction set that is measured; ctypes calls it, once per thread.

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kAccumulators = 24;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32, kAccumulators = 12;
#elif defined(__aarch64__)
constexpr int kVectorBytes = 16, kAccumulators = 24;
#else
constexpr int kVectorBytes = 16, kAccumulators = 12;
#endif

#if defined(__aarch64__)
#define IN_REGISTER "+w"
#else
#define IN_REGISTER "+v"
#endif

typedef float Vector __attribute__((vector_size(kVectorBytes)));

// Runs `rounds` rounds of independent multiply-adds, more of them than are under way at a time;
// returns how many operations (multiplications and additions of floats) that was. Every loop over
// the sums is unrolled: only then does the compiler keep them in registers.
extern "C" double multiply_add(long rounds) {
  Vector sums[kAccumulators];
  const Vector factor = Vector{} + 0.999f, term = Vector{} + 0.001f;
#pragma GCC unroll 24
  for (int i = 0; i < kAccumulators; ++i) sums[i] = Vector{} + 1.0f;
  for (long round = 0; round < rounds; ++round) {
#pragma GCC unroll 24
    for (int i = 0; i < kAccumulators; ++i) sums[i] = sums[i] * factor + term;
    // The values must be there, in registers, after every round.
#pragma GCC unroll 24
    for (int i = 0; i < kAccumulators; ++i) asm volatile("" : IN_REGISTER(sums[i]));
  }
  return 2.0 * rounds * kAccumulators * (kVectorBytes / sizeof(float));
}
