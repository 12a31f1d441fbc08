#include "common.h"

namespace denoise_ext::ops {

void* memory_of(const Tensor& tensor, Access) {
  return tensor.data_ptr();
}

}  // namespace denoise_ext::ops
