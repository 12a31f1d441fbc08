#include "pixel_shuffle.h"

#include <cstring>

#include "storage.h"

namespace denoise_ext::cpu {
namespace {

// The image of squares, and the same with their pixels as channels. One of both is written.
struct Squares {
  Tensor4 image, channels;
  int64_t factor;
  bool to_channels;
};

// `count` times `factor` elements that lie side by side, to or from places `step` elements apart.
template <class Storage, int64_t kFactor>
void copy_squares(bool to_channels, Storage* pixels, int64_t count, int64_t step, Storage* channels) {
  constexpr size_t kBytes = kFactor * sizeof(Storage);
  if (to_channels) {
    for (int64_t x = 0; x < count; ++x) std::memcpy(channels + x * step, pixels + x * kFactor, kBytes);
  } else {
    for (int64_t x = 0; x < count; ++x) std::memcpy(pixels + x * kFactor, channels + x * step, kBytes);
  }
}

// One row of squares.
template <class Storage>
void copy_row(const Squares& squares, int64_t n, int64_t y) {
  const Tensor4 &image = squares.image, &channels = squares.channels;
  const int64_t factor = squares.factor, width = channels.size[3];
  auto* pixels = static_cast<Storage*>(image.data) + n * image.stride[0];
  auto* others = static_cast<Storage*>(channels.data) + n * channels.stride[0] + y * channels.stride[2];
  const bool dense = image.stride[3] == 1 && channels.stride[1] == 1;
  for (int64_t c = 0; c < image.size[1]; ++c)
    for (int64_t dy = 0; dy < factor; ++dy) {
      Storage* row = pixels + c * image.stride[1] + (y * factor + dy) * image.stride[2];
      Storage* at = others + (c * factor + dy) * factor * channels.stride[1];
      if (dense && factor == 2) {
        copy_squares<Storage, 2>(squares.to_channels, row, width, channels.stride[3], at);
      } else if (dense && factor == 4) {
        copy_squares<Storage, 4>(squares.to_channels, row, width, channels.stride[3], at);
      } else {
        for (int64_t dx = 0; dx < factor; ++dx)
          for (int64_t x = 0; x < width; ++x) {
            Storage& pixel = row[(x * factor + dx) * image.stride[3]];
            Storage& channel = at[dx * channels.stride[1] + x * channels.stride[3]];
            squares.to_channels ? channel = pixel : pixel = channel;
          }
      }
    }
}

void run_squares(const Squares& squares, const Threads& threads) {
  const int64_t rows = squares.channels.size[2];
  with_storage(squares.image.dtype, [&](auto storage) {
    for_each_block(threads, squares.image.size[0] * rows, [&](int64_t index, Scratch&) {
      copy_row<decltype(storage)>(squares, index / rows, index % rows);
    });
  });
}

}  // namespace

void run(const PixelUnshuffleParams& params, const Threads& threads) {
  run_squares({params.input, params.output, params.factor, true}, threads);
}

void run(const PixelShuffleParams& params, const Threads& threads) {
  run_squares({params.output, params.input, params.factor, false}, threads);
}

}  // namespace denoise_ext::cpu
