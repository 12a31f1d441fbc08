// torch.ops.denoise_ext.block_match: where each block of a frame was in the frame before.
#include "../cpu/motion.h"
#include "common.h"
#include "device.h"
#include "register.h"

namespace denoise_ext::ops {
namespace {

void check_plane(const Tensor& plane, const char* op, const char* argument) {
  check_dim(plane, 4, op, argument);
  check_extents(plane, op, argument);
  STD_TORCH_CHECK(plane.size(1) == 1, op, ": ", argument, " must have one channel, got sizes ",
                  sizes_text(plane));
}

template <class Device>
Tensor block_match(const Tensor& input, const Tensor& previous, const Tensor& sigma) {
  constexpr const char* kOp = "block_match";
  check_plane(input, kOp, "input");
  check_plane(previous, kOp, "previous");
  check_same_dtype(previous, input, kOp, "previous");
  const int64_t n = input.size(0), height = input.size(2), width = input.size(3);
  check_sizes(previous, {n, 1, height, width}, kOp, "previous");
  const int64_t rows = divide_up(height, kBlock), columns = divide_up(width, kBlock);
  check_sizes(sigma, {n, 1, rows, columns}, kOp, "sigma");
  STD_TORCH_CHECK(same_device(sigma, input), kOp, ": sigma is on ", device_text(sigma), ", but input on ",
                  device_text(input));
  const std::array<int64_t, 4> sizes{n, rows, columns, 2};
  Tensor motion = torch::stable::empty({sizes.data(), 4}, ScalarType::Short, std::nullopt, input.device());
  BlockMatchParams params{};
  params.input = view4(input, kOp, "input");
  params.previous = view4(previous, kOp, "previous");
  params.sigma = view4(sigma, kOp, "sigma");
  STD_TORCH_CHECK(params.sigma.dtype != DType::kUInt8, kOp, ": sigma must be floating point, got uint8");
  params.motion = static_cast<int16_t*>(memory_of(motion, Access::kWrite));
  if (motion.numel() > 0) Device::compute(params, input, kOp);
  return motion;
}

}  // namespace
}  // namespace denoise_ext::ops

DENOISE_EXT_SCHEMAS(m) {
  m.def("block_match(Tensor input, Tensor previous, Tensor sigma) -> Tensor");
}

DENOISE_EXT_REGISTER(block_match)
