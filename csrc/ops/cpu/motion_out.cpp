// torch.ops.denoise_ext.block_warp_out and recurrent_fuse_out: into given memory, on the CPU.
#include "../../cpu/motion.h"
#include "../device.h"
#include "../motion.h"
#include "../register.h"
#include "../results.h"

namespace denoise_ext::ops {
namespace {

// The memory of a result of the sizes of `like`, checked.
Tensor4 checked_out(const Tensor& out, const Tensor& input, const Tensor4& like, const char* op) {
  check_same_dtype(out, input, op, "out");
  check_sizes(out, {like.size, like.size + 4}, op, "out");
  count_change(out);
  return view4(out, op, "out", Access::kWrite);
}

template <class Device>
void block_warp_out(const Tensor& input, const Tensor& motion, const Tensor& out) {
  constexpr const char* kOp = "block_warp_out";
  const Tensor dense = torch::stable::contiguous(motion);
  BlockWarpParams params = checked_warp(input, dense, kOp, "input");
  check_no_gradients({{"input", input}, {"out", out}}, kOp);
  params.output = checked_out(out, input, params.input, kOp);
  check_no_overlap({"out", params.output}, {{"input", params.input}}, kOp);
  if (out.numel() > 0) Device::compute(params, input, kOp);
}

template <class Device>
void recurrent_fuse_out(const Tensor& input, const Tensor& previous, const Tensor& gate, const Tensor& level,
                        const Tensor& out) {
  constexpr const char* kOp = "recurrent_fuse_out";
  RecurrentFuseParams params = checked_fuse(input, previous, gate, level, kOp);
  check_no_gradients(
      {{"input", input}, {"previous", previous}, {"gate", gate}, {"level", level}, {"out", out}}, kOp);
  params.output = checked_out(out, input, params.previous, kOp);
  check_no_overlap({"out", params.output},
                   {{"input", params.input},
                    {"previous", params.previous},
                    {"gate", params.gate},
                    {"level", params.level}},
                   kOp);
  if (out.numel() > 0) Device::compute(params, input, kOp);
}

}  // namespace
}  // namespace denoise_ext::ops

DENOISE_EXT_SCHEMAS(m) {
  m.def("block_warp_out(Tensor input, Tensor motion, Tensor(a!) out) -> ()");
  m.def("recurrent_fuse_out(Tensor input, Tensor previous, Tensor gate, Tensor level, Tensor(a!) out) -> ()");
}

DENOISE_EXT_REGISTER_FOR_(CPU, block_warp_out, Cpu)
DENOISE_EXT_REGISTER_FOR_(CPU, recurrent_fuse_out, Cpu)
