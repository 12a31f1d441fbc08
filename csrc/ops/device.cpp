#include "device.h"

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
  STD_TORCH_CHECK(code == 0, op_, ": CUDA error ", code, ": ", cuda::error_text(code));
}

}  // namespace denoise_ext::ops

#endif
