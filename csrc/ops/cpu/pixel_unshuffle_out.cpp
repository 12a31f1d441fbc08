// torch.ops.denoise_ext.pixel_unshuffle_out: squares of pixels as channels, into given memory.
#include "../../cpu/pixel_unshuffle.h"

#include "../device.h"
#include "../register.h"
#include "../results.h"

namespace denoise_ext::ops {
namespace {

template <class Device>
void pixel_unshuffle_out(const Tensor& input, int64_t factor, const Tensor& out) {
  constexpr const char* kOp = "pixel_unshuffle_out";
  check_dim(input, 4, kOp, "input");
  check_extents(input, kOp, "input");
  check_same_dtype(out, input, kOp, "out");
  const int64_t height = input.size(2), width = input.size(3);
  STD_TORCH_CHECK(factor > 0 && height % factor == 0 && width % factor == 0, kOp,
                  ": factor must be positive and divide the rows and columns of input, ", sizes_text(input),
                  ", got ", factor);
  check_sizes(out, {input.size(0), input.size(1) * factor * factor, height / factor, width / factor}, kOp,
              "out");
  cpu::PixelUnshuffleParams params{view4(input, kOp, "input"), view4(out, kOp, "out", Access::kWrite),
                                   factor};
  check_no_overlap({"out", params.output}, {{"input", params.input}}, kOp);
  check_no_gradients({{"input", input}, {"out", out}}, kOp);
  count_change(out);
  if (out.numel() > 0) cpu::run(params, torch_threads());
}

}  // namespace
}  // namespace denoise_ext::ops

DENOISE_EXT_SCHEMAS(m) {
  m.def("pixel_unshuffle_out(Tensor input, int factor, Tensor(a!) out) -> ()");
}

DENOISE_EXT_REGISTER_FOR_(CPU, pixel_unshuffle_out, Cpu)
