// The current GPU and stream as torch has them.
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>

#include "../device.h"

namespace denoise_ext::ops {

struct CudaCall::Guard {
  explicit Guard(int32_t device) : guard(device) {}
  torch::stable::accelerator::DeviceGuard guard;
};

namespace {

// The handle of torch's current CUDA stream. The stable ABI has it from 2.13 on; earlier releases
// export a C function from libtorch_cuda, which is loaded whenever a CUDA tensor exists.
void* current_stream(int32_t device) {
  using Function = AOTITorchError (*)(int32_t, void**);
  static const Function function = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return reinterpret_cast<Function>(
        dlsym(library == nullptr ? RTLD_DEFAULT : library, "aoti_torch_get_current_cuda_stream"));
  }();
  STD_TORCH_CHECK(
      function != nullptr,
      "denoise_ext: libtorch_cuda does not export aoti_torch_get_current_cuda_stream; torch >= 2.11 "
      "with CUDA is needed for CUDA tensors");
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(function(device, &stream));
  return stream;
}

}  // namespace

CudaCall::CudaCall(const Tensor& like, const char* op)
    : like_(like), op_(op), guard_(new Guard(like.get_device_index())) {
  const int32_t device = like.get_device_index();
  context_.stream = current_stream(device);
  check(cuda::device_limits(device, &context_.limits));
}

CudaCall::~CudaCall() {
  delete guard_;
}

}  // namespace denoise_ext::ops
