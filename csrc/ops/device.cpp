#include "device.h"

#include "../params/driver.h"

#if defined(DENOISE_EXT_WITH_CUDA)

namespace denoise_ext::ops {

Tensor CudaCall::allocate(int64_t bytes) {
  const std::array<int64_t, 1> sizes{bytes};
  const Tensor workspace =
      torch::stable::empty({sizes.data(), 1}, ScalarType::Byte, std::nullopt, like_.device());
  if (bytes > 0)
    context_.workspace = const_cast<void*>(view1(workspace, op_, "workspace", Access::kWrite).data);
  context_.workspace_bytes = bytes;
  return workspace;
}

void CudaCall::check(int code) const {
  if (code == 0) return;
  char reason[256];
  const bool too_old = cuda::driver_is_too_old(cuda::versions(), reason, sizeof reason);
  STD_TORCH_CHECK(false, op_, ": CUDA error ", code, ": ", too_old ? reason : cuda::error_text(code));
}

}  // namespace denoise_ext::ops

#endif
