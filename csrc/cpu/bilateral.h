// The joint bilateral filter and its gradients, cut into tiles that any ISA's kernel can run.
//
// A tile's guidance and input are packed as planes of the accumulation type with the window's radius
// around them and the border applied, so that the sums run over plain shifted rows.
//
// The gradients take three passes over one image at a time, and buffers of the accumulation type of
// that image's size: (2 C + Cg + 1) planes, enlarged by the radius where they hold gradients.
//   1. normalise: D[p] = sum of the weights, G[p] / D[p], and B[p] = sum over channels of G out / D.
//   2. gather, over the image enlarged by the radius. The weight between z and t = z + tap is the
//      same seen from either side, so z collects, with
//        A(p -> q) = dL / dw(p, q) = sum over channels of (G[p] / D[p]) input[q] - B[p],
//      as a neighbour of t: w G[t] / D[t] for the input; as both centre and neighbour:
//      (A(z -> t) + A(t -> z)) dw / dguidance[z]; as a centre: A(z -> t) dw / dsigma.
//      G / D and B are zero outside of the image.
//   3. fold: each pixel adds up what was collected at the positions that are read from it.
// Every sum has a fixed order, whatever the number of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "../params/arithmetic.h"
#include "../params/bilateral.h"
#include "border.h"
#include "isa.h"
#include "threads.h"

namespace denoise_ext::cpu {

// Whether the guidance is another image than the input, to be packed besides it.
inline bool is_joint(const BilateralParams& params) {
  const Tensor4 &a = params.input, &b = params.guidance;
  bool same = a.data == b.data;  // a view of some channels begins where the whole does
  for (int i = 0; i < 4; ++i) same = same && a.size[i] == b.size[i] && a.stride[i] == b.stride[i];
  return !same;
}

struct BilateralTap {
  int64_t dy, dx;
  int64_t offset;  // of the neighbour from the centre, in a packed plane
};

struct BilateralPlan {
  BilateralParams params;
  int64_t radius[2];                 // along y and x
  int64_t first_image, images;       // what the tasks run over
  int64_t origin[2], extent[2];      // positions the tiles cover: the image, or the image enlarged
  int64_t tile_rows, tile_cols;      // positions per tile
  int64_t tiles[2];                  // along y and x
  int64_t row_elements;              // tile_cols rounded up to kTileColumns
  int64_t packed_cols, packed_rows;  // of a plane
  int64_t planes;
  std::vector<BilateralTap> taps;  // the centre first
  size_t scratch_bytes;

  // In the accumulation type:
  const void* log_space;    // [1 or N][tap]: logarithm of the spatial weight
  const void* color_scale;  // [1 or N]: 1 / (sqrt(2) sigma_color)

  // The tables of kernels/bilateral_fused.inl, for weights that are powers of 2:
  const float* log2_space;        // [1 or N][tap]
  const float* log2_color_scale;  // [1 or N]: sqrt(log2(e) / 2) / sigma_color

  bool joint() const { return is_joint(params); }
  int64_t plane_elements() const { return packed_rows * packed_cols; }
  int64_t tasks() const { return images * tiles[0] * tiles[1]; }
};

struct BilateralGradPlan {
  BilateralGradParams params;
  BilateralPlan image, enlarged;
  Tensor4 scaled;  // (1, C + 1, H, W) in the accumulation type: G / D, and B as the last channel
  // (C or Cg, H + 2 radius, W + 2 radius) in the accumulation type, or nullptr where not wanted
  void* grad_input;
  void* grad_guidance;
  // [task of `enlarged`][3]: sums of A w d^2 / (2 sigma_color^2), A w dy^2 and A w dx^2
  double* partial_sums;
};

// Rows of a tile are padded to a multiple of this, the widest block of any ISA.
constexpr int64_t kTileColumns = 64;
// The fused kernel takes up to this many channels.
constexpr int64_t kFusedChannels = 4;
// Weights of this many taps are kept while the channels take their sums.
constexpr int64_t kTapChunk = 32;

// A plan over the image (enlarged: over the image with the radius around it) for tasks that pack
// `planes` planes and need `rows` more rows of row_elements. Leaves the tables to the caller.
BilateralPlan make_bilateral_plan(const BilateralParams& params, bool enlarged, int64_t planes, int64_t rows);

// The tables of a plan with these taps, for weights that are powers of e, or of 2 if `unit` is log2(e).
template <class T>
struct BilateralTables {
  BilateralTables(const BilateralParams& params, const std::vector<BilateralTap>& taps, double unit = 1);
  std::vector<T> log_space, color_scale;
};

// Tensors are on the CPU, sizes agree and are not zero, sigmas are positive.
void run(const BilateralParams& params, const Threads& threads);
void run(const BilateralGradParams& params, const Threads& threads);

// Which kernel run() takes.
std::string explain(const BilateralParams& params, const KernelTable& table);
std::string explain(const BilateralGradParams& params, const KernelTable& table);

}  // namespace denoise_ext::cpu
