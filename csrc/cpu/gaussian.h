// The separable Gaussian filter, cut into tasks that any ISA's kernel can run.
//
// A task is a tile of columns and a strip of rows. It filters each row of the strip (and of the
// radius around it) horizontally into a ring of kernel_size[0] rows that stays in cache, and sums
// the ring vertically for each output row: the image is read and written once.
//
// A row is a run of elements in which horizontal neighbours are `channels` elements apart: 1 for
// planar images, up to kSliceChannels interleaved channels for channels_last ones.
//
// Dense rows of float32 or uint8 take another way (gaussian_dense.inl): a task sums kDenseRows output rows
// at a time vertically, each image row read serving all of them, into lines that stay in cache, and
// filters those horizontally into the result.
//
// uint8 images get OpenCV's bit-exact result: its taps are integers of 1/256 that add up to 256, so
// every sum is an integer of at most 255 * 2^16 < 2^24, which float holds exactly.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "../params/arithmetic.h"
#include "../params/gaussian.h"
#include "border.h"
#include "isa.h"
#include "threads.h"

namespace denoise_ext::cpu {

struct GaussianPlan {
  Tensor4 input, output;  // sigma gradient: input, and the gradient of the blurred image
  int64_t radius[2];      // along y and x; where the window is larger than the image, of what it folds to
  Border border;
  int64_t sigma_rows;
  int64_t channels, slices;    // interleaved channels of a tile, tiles along the channels
  int64_t tile_pixels, tiles;  // along x
  int64_t strip_rows, strips;  // along y
  int64_t tile_elements;       // tile_pixels * channels rounded up to kRowElements
  int64_t line_elements;       // a packed row of a tile with its radius on both sides
  int64_t row_table_bytes;     // of the pointers to rows; dense: and of the edges
  size_t scratch_bytes;
  bool streaming;  // dense: write past the caches

  // In the accumulation type (dense uint8: uint16), for y and x: [sigma_rows][2 * radius + 1]
  const void* taps[2];
  const void* derivative[2];  // of the taps with respect to sigma; sigma gradient only
  // The adjoint gathers too, and only near a border do the taps differ from the filter's:
  // [sigma_rows][edge_count(...)][2 * radius + 1], or nullptr.
  const void* edge_taps[2];
  double* partial_sums;  // [task][2]: sigma gradient's, along y and x

  int64_t tasks() const { return input.size[0] * slices * strips * tiles; }
};

// Rows are processed in multiples of this: four of the widest vectors.
constexpr int64_t kRowElements = 64;
// Output rows that the dense kernel computes at once.
constexpr int64_t kDenseRows = 4;
// One cache line of floats.
constexpr int64_t kSliceChannels = 16;

// Positions of an axis whose adjoint taps are their own, and the row of the table that holds them
// (-1: the filter's taps). A reflected or replicated pixel is no farther from its source than the
// radius, so these are the radius + 1 positions at either end.
inline int64_t edge_count(int64_t extent, int64_t radius) {
  return extent < 2 * radius + 2 ? extent : 2 * radius + 2;
}
inline int64_t edge_row(int64_t position, int64_t extent, int64_t radius) {
  if (extent <= 2 * radius + 2 || position <= radius) return position;
  return position >= extent - 1 - radius ? position - (extent - 2 * radius - 2) : -1;
}

// Tensors are on the CPU, sizes agree and are not zero, sigmas are positive.
void run(const GaussianParams& params, const Threads& threads);
// Sums are kept in double and added in a fixed order, whatever the number of threads.
void run(const GaussianSigmaGradParams& params, const Threads& threads);

// Which kernel run() takes.
std::string explain(const GaussianParams& params, const KernelTable& table);
std::string explain(const GaussianSigmaGradParams& params, const KernelTable& table);

}  // namespace denoise_ext::cpu
