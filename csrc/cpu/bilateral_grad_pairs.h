// Passes 2 and 3 of bilateral.h for a window that is much larger than the image.
//
// The image enlarged by the radius then has many times its pixels, and nearly all pairs of positions that
// pass 2 visits lie outside of the image. Here each pixel visits its own window, and adds what a
// neighbour gets to the pixel that the neighbour is read from.
#pragma once

#include <vector>

#include "bilateral.h"

namespace denoise_ext::cpu {

// Whether the work is less this way.
bool favours_pairs(const BilateralPlan& enlarged);

template <class T>
class BilateralGradPairs {
 public:
  // The plan and the tables stay in use.
  BilateralGradPairs(const BilateralGradPlan& grad, const BilateralTables<T>& tables);

  // Writes the gradients of image n. The partial sums are those of BilateralGradPlan, by strips.
  void run(int64_t n, std::vector<double>& partial_sums, const Threads& threads);

 private:
  struct Strip;

  void visit(int64_t n, int64_t pixel, Strip& strip) const;
  void store(const Tensor4& to, int64_t n, int64_t first_plane) const;

  const BilateralGradPlan& grad_;
  const BilateralParams& params_;
  const BilateralTables<T>& tables_;
  const int64_t height_, width_, channels_, guides_;
  const int64_t plane_;                    // elements: the pixels, and a zero for what lies outside
  std::vector<int64_t> rows_, columns_;    // of the pixel that a position of the enlarged image is read from
  std::vector<T> input_, guidance_;        // of one image, a plane for each channel
  std::vector<std::vector<double>> sums_;  // of each strip: planes of the input's and the guidance's gradient
};

}  // namespace denoise_ext::cpu
