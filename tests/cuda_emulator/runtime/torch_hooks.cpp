// What the operators of csrc/ops and Python see of the emulator.
#include <emulator.h>

#include <algorithm>
#include <string>
#include <vector>

#include "../../../csrc/cuda/variants.h"
#include "../../../csrc/ops/device.h"
#include "../../../csrc/params/driver.h"
#include "../../../csrc/params/launch.h"

namespace {

int compute_capability = 90;
int multiprocessors = 2;
denoise_ext::cuda::Versions cuda_versions{13000, 13000};
std::string preferred_variants;  // as possible_variants, and a space before the first
std::string possible_variants;   // names, each with a space behind it

}  // namespace

namespace denoise_ext {

namespace ops {

void* memory_of(const Tensor& tensor, Access access) {
  using cuda_emulator::Use;
  const Use use = access == Access::kRead ? Use::kRead : access == Access::kWrite ? Use::kFill : Use::kUpdate;
  std::vector<int64_t> sizes, strides;
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    sizes.push_back(tensor.size(d));
    strides.push_back(tensor.stride(d));
  }
  cuda_emulator::use_memory(tensor.data_ptr(), static_cast<int>(tensor.dim()), sizes.data(), strides.data(),
                            static_cast<size_t>(tensor.element_size()), use);
  return tensor.data_ptr();
}

// In place of csrc/ops/cuda: no device to make current, no stream.
struct CudaCall::Guard {};

CudaCall::CudaCall(const Tensor& like, const char* op) : like_(like), op_(op), guard_(nullptr) {
  check(cuda::device_limits(0, &context_.limits));
}

CudaCall::~CudaCall() = default;

}  // namespace ops

// In place of csrc/cuda/device.cu: a device of a chosen architecture with few multiprocessors, so that
// kernels which give each of them several pieces of work do so with small images.
namespace cuda {

int device_limits(int, DeviceLimits* limits) {
  constexpr int kInsufficientDriver = 35;  // cudaErrorInsufficientDriver
  if (cuda_versions.driver / 1000 < cuda_versions.runtime / 1000) return kInsufficientDriver;
  *limits = typical_limits(compute_capability);
  limits->multiprocessors = multiprocessors;
  return 0;
}

Versions versions() {
  return cuda_versions;
}

// A table has been asked for the variant to run, and this one can: the preferred one comes first.
double compared_cost(const char* variant, double cost) {
  possible_variants += std::string(variant) + " ";
  return preferred_variants.find(" " + std::string(variant) + " ") != std::string::npos ? -1.0 : cost;
}

const char* error_text(int) {
  return "an error code of a launcher";
}

}  // namespace cuda
}  // namespace denoise_ext

extern "C" {

__attribute__((visibility("default"))) void cuda_emulator_configure(uint32_t seed, uint32_t preempt,
                                                                    int capability, int processors,
                                                                    const char* variant, int driver) {
  cuda_emulator::Options& options = cuda_emulator::options();
  options.seed = seed;
  options.preempt = preempt;
  options.shared_limit = static_cast<size_t>(denoise_ext::cuda::typical_limits(capability).shared_bytes);
  compute_capability = capability;
  multiprocessors = processors;
  cuda_versions.driver = driver;
  preferred_variants = " " + std::string(variant) + " ";
  possible_variants.clear();
}

__attribute__((visibility("default"))) void cuda_emulator_set_tf32_query(bool (*query)()) {
  denoise_ext::ops::set_tf32_query(query);
}

// The kernels that could have run since then, chosen or not; valid until the next operator.
__attribute__((visibility("default"))) const char* cuda_emulator_variants() {
  return possible_variants.c_str();
}

// To be called before every operator: the memory of the one before may be somebody else's by now.
__attribute__((visibility("default"))) void cuda_emulator_forget_memory() {
  cuda_emulator::forget_memory();
}

// Ten counters, in the order of cuda_emulator::Statistics.
__attribute__((visibility("default"))) void cuda_emulator_statistics(uint64_t* counters) {
  static_assert(sizeof(cuda_emulator::Statistics) == 10 * sizeof(uint64_t));
  const auto first = reinterpret_cast<const uint64_t*>(&cuda_emulator::statistics());
  std::copy(first, first + 10, counters);
}
}
