// torch.ops.denoise_ext.pixel_unshuffle_out and pixel_shuffle_out: squares of pixels as channels and back,
// into given memory.
#include "../../cpu/pixel_shuffle.h"

#include "../device.h"
#include "../register.h"
#include "../results.h"

namespace denoise_ext::ops {
namespace {

// Both operators behind their checks of factor: `sizes` are those of the result.
template <class Params>
void copy_squares(const char* op, const Tensor& input, int64_t factor, const Tensor& out,
                  const std::vector<int64_t>& sizes) {
  check_sizes(out, sizes, op, "out");
  const Params params{view4(input, op, "input"), view4(out, op, "out", Access::kWrite), factor};
  check_no_overlap({"out", params.output}, {{"input", params.input}}, op);
  check_no_gradients({{"input", input}, {"out", out}}, op);
  count_change(out);
  if (out.numel() > 0) cpu::run(params, torch_threads());
}

void check_input(const char* op, const Tensor& input, const Tensor& out) {
  check_dim(input, 4, op, "input");
  check_extents(input, op, "input");
  check_same_dtype(out, input, op, "out");
}

template <class Device>
void pixel_unshuffle_out(const Tensor& input, int64_t factor, const Tensor& out) {
  constexpr const char* kOp = "pixel_unshuffle_out";
  check_input(kOp, input, out);
  const int64_t height = input.size(2), width = input.size(3);
  STD_TORCH_CHECK(factor > 0 && height % factor == 0 && width % factor == 0, kOp,
                  ": factor must be positive and divide the rows and columns of input, ", sizes_text(input),
                  ", got ", factor);
  copy_squares<cpu::PixelUnshuffleParams>(
      kOp, input, factor, out,
      {input.size(0), input.size(1) * factor * factor, height / factor, width / factor});
}

template <class Device>
void pixel_shuffle_out(const Tensor& input, int64_t factor, const Tensor& out) {
  constexpr const char* kOp = "pixel_shuffle_out";
  check_input(kOp, input, out);
  const int64_t channels = input.size(1);
  STD_TORCH_CHECK(factor > 0 && factor <= channels && channels % (factor * factor) == 0, kOp,
                  ": factor must be positive and its square divide the channels of input, ",
                  sizes_text(input), ", got ", factor);
  copy_squares<cpu::PixelShuffleParams>(
      kOp, input, factor, out,
      {input.size(0), channels / (factor * factor), input.size(2) * factor, input.size(3) * factor});
}

}  // namespace
}  // namespace denoise_ext::ops

DENOISE_EXT_SCHEMAS(m) {
  m.def("pixel_unshuffle_out(Tensor input, int factor, Tensor(a!) out) -> ()");
  m.def("pixel_shuffle_out(Tensor input, int factor, Tensor(a!) out) -> ()");
}

DENOISE_EXT_REGISTER_FOR_(CPU, pixel_unshuffle_out, Cpu)
DENOISE_EXT_REGISTER_FOR_(CPU, pixel_shuffle_out, Cpu)
