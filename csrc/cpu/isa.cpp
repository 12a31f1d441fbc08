#include "isa.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace denoise_ext::cpu {

extern const KernelTable kBaselineKernels;
#if defined(__x86_64__)
extern const KernelTable kAvx2Kernels;
extern const KernelTable kAvx512Kernels;
#endif

namespace {

// Tables this processor can run, best first.
std::vector<const KernelTable*> supported_tables() {
  std::vector<const KernelTable*> tables;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512) tables.push_back(&kAvx512Kernels);
  if (avx2) tables.push_back(&kAvx2Kernels);
#endif
  tables.push_back(&kBaselineKernels);
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

std::vector<std::string> isa_available() {
  std::vector<std::string> names;
  for (const KernelTable* table : supported_tables()) names.emplace_back(table->isa);
  return names;
}

void force_isa(const std::string& name) {
  current.store(name.empty() ? automatic_choice() : find(name, "force_isa"), std::memory_order_release);
}

}  // namespace denoise_ext::cpu
