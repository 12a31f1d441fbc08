// How the matrix products of convolutions are divided, when they can run and what they cost (host code, no
// CUDA).
#include "conv_gemm.h"

#include <algorithm>
#include <numeric>

#include "conv_conditions.h"

namespace denoise_ext::cuda {
namespace {

// Of a term in the table, and of GemmPixel (conv_gemm_tile.cuh).
constexpr int64_t kTermBytes = 16, kPixelBytes = 32;

ConvGemmAxis conv_axis(const ConvParams& p, int axis) {
  ConvGemmAxis a{};
  a.phases = 1;
  a.output_step = a.tap_step = 1;
  a.input_step = static_cast<int>(p.stride[axis]);
  a.input_tap_step = static_cast<int>(p.dilation[axis]);
  ConvGemmPhase& all = a.phase[0];
  all.count = static_cast<int>(p.output.size[2 + axis]);
  all.taps = static_cast<int>(p.weight.size[2 + axis]);
  all.base = static_cast<int>(-p.padding[axis]);
  return a;
}

// Output y, input i and tap u meet where y + padding = i stride + u dilation. Of the outputs of one residue
// by the stride the taps are a residue too, by stride / gcd(stride, dilation).
ConvGemmAxis transposed_axis(const ConvParams& p, int axis) {
  const int64_t stride = p.stride[axis], dilation = p.dilation[axis], outputs = p.output.size[2 + axis];
  const int64_t taps = p.weight.size[2 + axis], common = std::gcd(stride, dilation);
  ConvGemmAxis a{};
  a.phases = static_cast<int>(std::min(stride, outputs));
  a.output_step = static_cast<int>(stride);
  a.tap_step = static_cast<int>(stride / common);
  a.input_step = 1;
  a.input_tap_step = static_cast<int>(-dilation / common);
  for (int64_t r = 0; r < a.phases; ++r) {
    ConvGemmPhase& phase = a.phase[r];
    phase.first = static_cast<int>(r);
    phase.count = static_cast<int>(divide_up(outputs - r, stride));
    int64_t u = 0;
    while (u < taps && (r + p.padding[axis] - u * dilation) % stride != 0) ++u;
    phase.tap = static_cast<int>(u);
    phase.taps = static_cast<int>(divide_up(taps - u, a.tap_step));
    phase.base = static_cast<int>((r + p.padding[axis] - u * dilation) / stride);
  }
  return a;
}

int most_taps(const ConvGemmAxis& axis) {
  int most = 0;
  for (int i = 0; i < axis.phases; ++i) most = std::max(most, axis.phase[i].taps);
  return most;
}

// Why neither of the kernels takes the call.
const char* geometry_cannot_run(const ConvParams& p) {
  if (p.input.dtype == DType::kFloat64) return "has no float64 form";
  for (int axis = 0; axis < 2; ++axis) {
    if (p.weight.size[2 + axis] > kGemmMostTaps) return "kernel must be at most 11 x 11";
    if (p.transposed && p.stride[axis] > kGemmMostPhases)
      return "takes strides of conv_transpose2d up to 16 only";
  }
  constexpr int64_t kLimit = int64_t{1} << 29;
  const int64_t terms = p.weight.size[2] * p.weight.size[3] * (p.input.size[1] / p.groups);
  if (p.input.size[0] >= kLimit || p.input.size[1] >= kLimit || p.output.size[1] >= kLimit || terms >= kLimit)
    return "takes batches, channels and products per output below 2^29 only";
  return nullptr;
}

const char* cannot_run(const ConvParams& p, const ConvGemmTile& tile, const DeviceLimits& limits) {
  const ConvGemmPlan plan = conv_gemm_plan(p, tile);
  if (plan.blocks > kMostBlocks) return "image is too large";
  if (plan.shared_bytes > static_cast<size_t>(limits.shared_bytes))
    return "needs more shared memory per block than the device has";
  return nullptr;
}

int64_t workspace(const ConvGemmPlan& plan) {
  return plan.table_bytes + plan.weight_bytes;
}

// Chunks that all blocks together multiply. Fewer blocks than multiprocessors take as long as one on each.
double chunks(const ConvParams& p, const ConvGemmPlan& plan, const ConvGemmTile& tile,
              const DeviceLimits& limits) {
  double terms = 0;
  const int phases = plan.axis[0].phases * plan.axis[1].phases;
  for (int i = 0; i < plan.axis[0].phases; ++i)
    for (int j = 0; j < plan.axis[1].phases; ++j)
      terms += static_cast<double>(
          divide_up(int64_t{plan.axis[0].phase[i].taps} * plan.axis[1].phase[j].taps * plan.inputs,
                    conv_gemm_chunk(tile)));
  const double blocks = static_cast<double>(plan.tiles) * static_cast<double>(p.groups) * plan.output_blocks;
  return std::max(blocks * phases, static_cast<double>(limits.multiprocessors)) * terms / phases;
}

// Instructions that bring a thread's share of a chunk's pixels to shared memory: 12 for an element,
// 9 for a vector of 16 bytes.
double loading_instructions(const ConvGemmPlan& plan, const ConvGemmTile& tile) {
  const double rows = static_cast<double>(tile.pixels) / tile.threads;
  return rows * (plan.vector_input ? 9 * (kGemmRowBytes / 16) : 12 * conv_gemm_chunk(tile));
}

double memory(const ConvParams& p, const ConvGemmPlan& plan, const DeviceLimits& limits) {
  return memory_cost(tensor_bytes(p.input) * (plan.vector_input ? 1.2 : 2.0) +
                         (tensor_bytes(p.output) + tensor_bytes(p.residual)) * (plan.wide_output ? 1.2 : 2.0),
                     limits);
}

constexpr double kPacking = 3;  // microseconds: one launch more than kernels without a workspace

}  // namespace

ConvGemmPlan conv_gemm_plan(const ConvParams& p, const ConvGemmTile& tile) {
  ConvGemmPlan plan{};
  for (int axis = 0; axis < 2; ++axis)
    plan.axis[axis] = p.transposed ? transposed_axis(p, axis) : conv_axis(p, axis);
  plan.inputs = static_cast<int>(p.input.size[1] / p.groups);
  plan.outputs = static_cast<int>(p.output.size[1] / p.groups);
  plan.output_blocks = static_cast<int>(divide_up(plan.outputs, tile.outputs));
  const int64_t chunk = conv_gemm_chunk(tile);
  plan.chunks = static_cast<int>(
      divide_up(int64_t{most_taps(plan.axis[0])} * most_taps(plan.axis[1]) * plan.inputs, chunk));
  const int64_t phases = int64_t{plan.axis[0].phases} * plan.axis[1].phases;
  // The first phase of an axis has the most outputs.
  plan.tiles =
      divide_up(p.input.size[0] * plan.axis[0].phase[0].count * plan.axis[1].phase[0].count, tile.pixels);
  plan.blocks = plan.tiles * plan.output_blocks * p.groups * phases;
  const int64_t lanes = 16 / element_bytes(p.input.dtype);
  plan.vector_input = tile.element_bytes == element_bytes(p.input.dtype) && has_wide_pixels(p.input) &&
                      plan.inputs % lanes == 0;
  plan.wide_output = wide_output(p) && plan.outputs % lanes == 0;
  plan.table_bytes = phases * plan.chunks * chunk * kTermBytes;
  plan.weight_bytes = phases * p.groups * plan.output_blocks * plan.chunks * tile.outputs * kGemmRowBytes;
  plan.shared_bytes =
      in_arena(static_cast<size_t>(tile.stages) * (tile.pixels + tile.outputs) * kGemmRowBytes) +
      in_arena(static_cast<size_t>(tile.pixels) * kPixelBytes) +
      in_arena(static_cast<size_t>(2 * tile.outputs) * 4);
  return plan;
}

ConvGemmTile conv_tiled_tile(const ConvParams& p) {
  return p.output.size[1] / p.groups <= kTiledNarrowMost ? kTiledNarrow : kTiledWide;
}

const char* conv_tiled_cannot_run(const ConvParams& p, const DeviceLimits& limits) {
  if (const char* reason = geometry_cannot_run(p)) return reason;
  return cannot_run(p, conv_tiled_tile(p), limits);
}

double conv_tiled_cost(const ConvParams& p, const DeviceLimits& limits) {
  const ConvGemmTile tile = conv_tiled_tile(p);
  const ConvGemmPlan plan = conv_gemm_plan(p, tile);
  // Of a thread for one chunk: its multiply-adds, the 16-byte reads of 4 terms of its pixels and of 8
  // channels, and about 30 to count, wait and address.
  const double pixels = static_cast<double>(tile.pixels) * tile.outputs / (8 * tile.threads);
  const double terms = conv_gemm_chunk(tile);
  const double instructions = terms * (8 * pixels + (pixels + 8) / 4) + loading_instructions(plan, tile) + 30;
  const double arithmetic =
      multiply_cost(chunks(p, plan, tile, limits) * tile.threads * instructions, 0.85, limits);
  return kPacking + std::max(arithmetic, memory(p, plan, limits));
}

int64_t conv_tiled_workspace(const ConvParams& p, const DeviceLimits&) {
  return workspace(conv_gemm_plan(p, conv_tiled_tile(p)));
}

ConvGemmTile conv_gemm_mma_tile(const ConvParams& p) {
  return is_16_bit(p.input.dtype) ? kGemmTensor16 : kGemmTensor32;
}

const char* conv_gemm_mma_cannot_run(const ConvParams& p, const DeviceLimits& limits) {
  if (const char* reason = tensor_cores_cannot_run(p, limits)) return reason;
  if (const char* reason = geometry_cannot_run(p)) return reason;
  return cannot_run(p, conv_gemm_mma_tile(p), limits);
}

double conv_gemm_mma_cost(const ConvParams& p, const DeviceLimits& limits) {
  const ConvGemmTile tile = conv_gemm_mma_tile(p);
  const ConvGemmPlan plan = conv_gemm_plan(p, tile);
  // The reads of shared memory take twice as long as the products: 24 times 128 bytes for 16 of them.
  const double all = chunks(p, plan, tile, limits);
  const double products = all * tile.pixels * tile.outputs * conv_gemm_chunk(tile);
  const double arithmetic =
      tensor_cost(products, 1.0 / tile.element_bytes, limits) +
      multiply_cost(all * tile.threads * loading_instructions(plan, tile), 0.85, limits);
  return kPacking + std::max(arithmetic, memory(p, plan, limits));
}

int64_t conv_gemm_mma_workspace(const ConvParams& p, const DeviceLimits&) {
  return workspace(conv_gemm_plan(p, conv_gemm_mma_tile(p)));
}

}  // namespace denoise_ext::cuda
