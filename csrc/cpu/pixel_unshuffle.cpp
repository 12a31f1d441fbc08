#include "pixel_unshuffle.h"

#include <cstring>

#include "storage.h"

namespace denoise_ext::cpu {
namespace {

// `count` times `factor` elements that lie side by side, to places `step` elements apart.
template <class Storage, int64_t kFactor>
void spread(const Storage* from, int64_t count, int64_t step, Storage* to) {
  for (int64_t x = 0; x < count; ++x)
    std::memcpy(to + x * step, from + x * kFactor, kFactor * sizeof(Storage));
}

// One row of the output's pixels.
template <class Storage>
void unshuffle_row(const PixelUnshuffleParams& params, int64_t image, int64_t y) {
  const Tensor4 &in = params.input, &out = params.output;
  const int64_t factor = params.factor, width = out.size[3];
  const auto* from = static_cast<const Storage*>(in.data) + image * in.stride[0];
  auto* to = static_cast<Storage*>(out.data) + image * out.stride[0] + y * out.stride[2];
  const bool dense = in.stride[3] == 1 && out.stride[1] == 1;
  for (int64_t c = 0; c < in.size[1]; ++c)
    for (int64_t dy = 0; dy < factor; ++dy) {
      const Storage* row = from + c * in.stride[1] + (y * factor + dy) * in.stride[2];
      Storage* pixels = to + (c * factor + dy) * factor * out.stride[1];
      if (dense && factor == 2) {
        spread<Storage, 2>(row, width, out.stride[3], pixels);
      } else if (dense && factor == 4) {
        spread<Storage, 4>(row, width, out.stride[3], pixels);
      } else {
        for (int64_t dx = 0; dx < factor; ++dx)
          for (int64_t x = 0; x < width; ++x)
            pixels[dx * out.stride[1] + x * out.stride[3]] = row[(x * factor + dx) * in.stride[3]];
      }
    }
}

}  // namespace

void run(const PixelUnshuffleParams& params, const Threads& threads) {
  const int64_t rows = params.output.size[2];
  with_storage(params.input.dtype, [&](auto storage) {
    for_each_block(threads, params.input.size[0] * rows, [&](int64_t index, Scratch&) {
      unshuffle_row<decltype(storage)>(params, index / rows, index % rows);
    });
  });
}

}  // namespace denoise_ext::cpu
