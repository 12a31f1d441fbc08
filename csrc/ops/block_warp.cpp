// torch.ops.denoise_ext.block_warp and its gradient.
#include "../cpu/motion.h"
#include "common.h"
#include "device.h"
#include "filters.h"
#include "motion.h"
#include "register.h"

namespace denoise_ext::ops {

BlockWarpParams checked_warp(const Tensor& image, const Tensor& motion, const char* op,
                             const char* argument) {
  check_dim(image, 4, op, argument);
  check_extents(image, op, argument);
  const int64_t rows = divide_up(image.size(2), kBlock), columns = divide_up(image.size(3), kBlock);
  check_sizes(motion, {image.size(0), rows, columns, 2}, op, "motion");
  STD_TORCH_CHECK(motion.scalar_type() == ScalarType::Short, op, ": motion must be int16, got dtype number ",
                  static_cast<int>(motion.scalar_type()));
  STD_TORCH_CHECK(same_device(motion, image), op, ": motion is on ", device_text(motion), ", but ", argument,
                  " on ", device_text(image));
  BlockWarpParams params{};
  params.input = view4(image, op, argument);
  params.motion = static_cast<const int16_t*>(memory_of(motion, Access::kRead));
  return params;
}

namespace {

// Warps image by motion; adjoint: the gradient of that, image being the gradient of the result.
template <class Device>
Tensor warped(const Tensor& image, const Tensor& motion, bool adjoint, const char* op, const char* argument) {
  const Tensor dense = torch::stable::contiguous(motion);
  BlockWarpParams params = checked_warp(image, dense, op, argument);
  Tensor output = empty_like_image(image);
  params.output = view4(output, op, "output", Access::kWrite);
  params.adjoint = adjoint;
  if (output.numel() > 0) Device::compute(params, image, op);
  return output;
}

template <class Device>
Tensor block_warp(const Tensor& input, const Tensor& motion) {
  return warped<Device>(input, motion, false, "block_warp", "input");
}

template <class Device>
Tensor block_warp_backward(const Tensor& grad_output, const Tensor& motion) {
  check_differentiable(grad_output, "block_warp_backward");
  return warped<Device>(grad_output, motion, true, "block_warp_backward", "grad_output");
}

}  // namespace
}  // namespace denoise_ext::ops

DENOISE_EXT_SCHEMAS(m) {
  m.def("block_warp(Tensor input, Tensor motion) -> Tensor");
  m.def("block_warp_backward(Tensor grad_output, Tensor motion) -> Tensor");
}

DENOISE_EXT_REGISTER(block_warp)
DENOISE_EXT_REGISTER(block_warp_backward)
