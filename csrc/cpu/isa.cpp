#include "isa.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#include "targets/vectors.h"

namespace denoise_ext::cpu {

// Defined in targets/*.cpp.
extern const ConvKernels kBaselineConv;
extern const WinogradKernels kBaselineWinograd;
extern const GaussianKernels kBaselineGaussian;
extern const BilateralKernels kBaselineBilateral;
extern const MotionKernels kBaselineMotion;
extern const CoderKernels kBaselineCoder;
#if defined(__x86_64__)
extern const ConvKernels kAvx2Conv, kAvx512Conv;
extern const WinogradKernels kAvx2Winograd, kAvx512Winograd;
extern const GaussianKernels kAvx2Gaussian, kAvx512Gaussian;
extern const BilateralKernels kAvx2Bilateral, kAvx512Bilateral;
extern const MotionKernels kAvx2Motion, kAvx512Motion;
extern const CoderKernels kAvx2Coder, kAvx512Coder;
#endif

namespace {

#define DENOISE_EXT_TABLE_OF(Isa)                                            \
  {k##Isa##Vectors.isa, k##Isa##Vectors.bytes, k##Isa##Vectors.accumulators, \
   &k##Isa##Conv,       &k##Isa##Winograd,     &k##Isa##Gaussian,            \
   &k##Isa##Bilateral,  &k##Isa##Motion,       &k##Isa##Coder}

constexpr KernelTable kBaseline = DENOISE_EXT_TABLE_OF(Baseline);
#if defined(__x86_64__)
constexpr KernelTable kAvx2 = DENOISE_EXT_TABLE_OF(Avx2);
constexpr KernelTable kAvx512 = DENOISE_EXT_TABLE_OF(Avx512);
#endif

// Tables this processor can run, best first.
std::vector<const KernelTable*> supported_tables() {
  std::vector<const KernelTable*> tables;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512) tables.push_back(&kAvx512);
  if (avx2) tables.push_back(&kAvx2);
#endif
  tables.push_back(&kBaseline);
  return tables;
}

const KernelTable* find(const std::string& name, const char* source) {
  std::string allowed;
  for (const KernelTable* table : supported_tables()) {
    if (name == table->isa) return table;
    allowed += (allowed.empty() ? "" : ", ") + std::string(table->isa);
  }
  throw std::runtime_error(std::string(source) + ": '" + name +
                           "' is not an instruction set this processor can run; available: " + allowed);
}

const KernelTable* automatic_choice() {
  const char* forced = std::getenv("DENOISE_EXT_CPU_ISA");
  if (forced != nullptr && *forced != '\0') return find(forced, "DENOISE_EXT_CPU_ISA");
  return supported_tables().front();
}

std::atomic<const KernelTable*> current{nullptr};

}  // namespace

const KernelTable& kernels() {
  const KernelTable* table = current.load(std::memory_order_acquire);
  if (table == nullptr) {
    table = automatic_choice();
    current.store(table, std::memory_order_release);
  }
  return *table;
}

std::string chosen_line(const std::string& kernel, const KernelTable& table) {
  return kernel + ": chosen (CPU, " + table.isa + ")";
}

std::vector<std::string> isa_available() {
  std::vector<std::string> names;
  for (const KernelTable* table : supported_tables()) names.emplace_back(table->isa);
  return names;
}

void force_isa(const std::string& name) {
  current.store(name.empty() ? automatic_choice() : find(name, "force_isa"), std::memory_order_release);
}

}  // namespace denoise_ext::cpu
