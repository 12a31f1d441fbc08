// The gradients of the joint bilateral filter: three passes, all of them gathers (no atomics), so that
// results are the same every time. As on the CPU (csrc/cpu/bilateral.h):
//   1. normalise: D[p] = sum of the weights, G[p] / D[p], and B[p] = sum over channels of G out / D.
//   2. gather, over the image enlarged by the radius. The weight between z and t = z + tap is the same
//      seen from either side, so z collects, with
//        A(p -> q) = dL / dw(p, q) = sum over channels of (G[p] / D[p]) input[q] - B[p],
//      as a neighbour of t: w G[t] / D[t] for the input; as both centre and neighbour:
//      (A(z -> t) + A(t -> z)) dw / dguidance[z]; as a centre: A(z -> t) dw / dsigma.
//      G / D and B are zero outside of the image.
//   3. fold: each pixel adds up what was collected at the positions that are read from it.
// The sums for the sigmas are a block's in double, added in order by a fourth kernel.
// Variants differ in the first two passes; the others are in bilateral_direct.cu.
#pragma once

#include "bilateral.cuh"

namespace denoise_ext::cuda {

// What the passes leave each other, for images first .. first + images - 1 of the batch. Buffers are of
// the accumulation type.
struct BilateralGradWork {
  BilateralGradParams params;
  int64_t first, images;
  int64_t rows, cols;   // of the enlarged image
  void* scaled;         // (images, C + 1, H, W): G / D, and B as the last channel
  void* grad_input;     // (images, C, rows, cols), or nullptr where not wanted
  void* grad_guidance;  // (images, Cg, rows, cols), or nullptr
  double* partials;     // [images][3][blocks] of A w d^2 / (2 sigma_color^2), A w dy^2, A w dx^2; or nullptr
  int64_t blocks;       // of pass 2 per image
};

// How a variant does the first two passes.
struct BilateralGradPasses {
  int64_t (*blocks)(const BilateralGradWork& work);
  int (*normalise_and_gather)(const BilateralGradWork& work, void* stream);
};

// The bytes of the buffers, and all passes over all images.
int64_t bilateral_grad_workspace(const BilateralGradParams& params, const BilateralGradPasses& passes);
int run_bilateral_grad(const BilateralGradParams& params, const BilateralGradPasses& passes,
                       const LaunchContext& context);

}  // namespace denoise_ext::cuda
