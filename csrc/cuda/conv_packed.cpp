// Which kernels read a weight that is packed once, and how it is laid out for each (host code, no CUDA).
#include "conv_packed.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <iterator>

#include "../params/conv_packed.h"
#include "conv_conditions.h"
#include "conv_gemm.h"
#include "conv_rowring_plan.h"

namespace denoise_ext::cuda {
namespace {

PackedLayout row_ring_layout(const ConvParams& p) {
  const int64_t kernel = p.weight.size[2];
  const int64_t chunk =
      row_ring_tile(static_cast<int>(element_bytes(p.input.dtype)), static_cast<int>(kernel), false).chunk;
  const bool tf32 = p.input.dtype == DType::kFloat32 && p.precision == Precision::kFast;
  return {6,
          {divide_up(p.output.size[1], kRowRingOutputs), divide_up(p.input.size[1], chunk), kernel, kernel,
           kRowRingOutputs, chunk},
          p.input.dtype,
          tf32};
}

int64_t no_workspace(const ConvParams&) {
  return 0;
}

// Of conv2d, which is one phase.
PackedLayout gemm_layout(const ConvParams& p, const ConvGemmTile& tile, DType factors, bool tf32) {
  const ConvGemmPlan plan = conv_gemm_plan(p, tile);
  return {5, {p.groups, plan.output_blocks, plan.chunks, tile.outputs, conv_gemm_chunk(tile)}, factors, tf32};
}

PackedLayout mma_layout(const ConvParams& p) {
  return gemm_layout(p, conv_gemm_mma_tile(p), p.input.dtype, p.input.dtype == DType::kFloat32);
}

int64_t mma_table_bytes(const ConvParams& p) {
  return conv_gemm_plan(p, conv_gemm_mma_tile(p)).table_bytes;
}

PackedLayout tiled_layout(const ConvParams& p) {
  return gemm_layout(p, conv_tiled_tile(p), DType::kFloat32, false);
}

int64_t tiled_table_bytes(const ConvParams& p) {
  return conv_gemm_plan(p, conv_tiled_tile(p)).table_bytes;
}

struct Packing {
  const char* name;
  const char* (*cannot_run)(const ConvParams& params, const DeviceLimits& limits);
  PackedLayout (*layout)(const ConvParams& params);
  int (*pack)(const ConvParams& params, const LaunchContext& context, void* packed);
  int64_t (*workspace_bytes)(const ConvParams& params);  // besides the packed weight
  int (*launch)(const ConvParams& params, const LaunchContext& context, const void* packed);
};

const Packing kPackings[] = {
    {"conv_rowring", row_ring_cannot_run, row_ring_layout, conv_rowring_pack, no_workspace,
     conv_rowring_launch_packed},
    {"conv_gemm_mma", conv_gemm_mma_cannot_run, mma_layout, conv_gemm_mma_pack, mma_table_bytes,
     conv_gemm_mma_launch_packed},
    {"conv_tiled", conv_tiled_cannot_run, tiled_layout, conv_tiled_pack, tiled_table_bytes,
     conv_tiled_launch_packed},
};

const Packing* packing_for(const char* kernel) {
  const auto found = std::find_if(std::begin(kPackings), std::end(kPackings), [&](const Packing& packing) {
    return std::strcmp(packing.name, kernel) == 0;
  });
  return found == std::end(kPackings) ? nullptr : found;
}

bool is_same(const PackedLayout& a, const PackedLayout& b) {
  return a.dims == b.dims && std::equal(a.size, a.size + a.dims, b.size) && a.dtype == b.dtype &&
         a.tf32 == b.tf32;
}

}  // namespace

const char* packed_layout(const ConvParams& params, const char* kernel, const DeviceLimits& limits,
                          PackedLayout* layout) {
  const Packing* const packing = packing_for(kernel);
  if (packing == nullptr) return "no such kernel packs weights";
  const char* const reason = packing->cannot_run(params, limits);
  if (reason == nullptr) *layout = packing->layout(params);
  return reason;
}

const char* kernel_of_packed(const ConvParams& params, const PackedLayout& layout,
                             const DeviceLimits& limits) {
  for (const Packing& packing : kPackings)
    if (packing.cannot_run(params, limits) == nullptr && is_same(packing.layout(params), layout))
      return packing.name;
  return nullptr;
}

int run(const ConvPacking& packing, const LaunchContext& context) {
  return packing_for(packing.kernel)->pack(packing.params, context, packing.packed);
}

int64_t workspace_bytes(const ConvPacking&, const DeviceLimits&) {
  return 0;
}

int run(const PackedConv& conv, const LaunchContext& context) {
  return packing_for(conv.kernel)->launch(conv.params, context, conv.packed);
}

int64_t workspace_bytes(const PackedConv& conv, const DeviceLimits&) {
  return packing_for(conv.kernel)->workspace_bytes(conv.params);
}

void explain(const PackedConv& conv, const DeviceLimits&, char* text, int bytes) {
  std::snprintf(text, static_cast<size_t>(bytes), "%s: chosen, the weight is packed for it", conv.kernel);
}

}  // namespace denoise_ext::cuda
