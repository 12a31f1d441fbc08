// Convolution of stride 1 on the matrix units: 1x1, 3x3 and 5x5 kernels, float16, bfloat16 and float32;
// sums in float. Factors in float32 are rounded to tf32 or, where that is not allowed, divided into two tf32
// numbers: then three products stand for one ("3xTF32"), with an error as of a sum in float32. conv2d, and
// conv_transpose2d of stride 1: the gradient of conv2d's input, which takes the activation's mask along.
//
// The image is cut into vertical strips. A block goes down a strip in groups of rows; the input rows it
// needs are in a ring in shared memory, so that each is read once per strip, and the rows of the next
// group are copied there while this one is computed. The weights stay in shared memory; where they do
// not fit, their columns (all taps of one horizontal offset) are streamed through it. Pixels are the rows
// and output channels the columns of the matrix products, input channels are summed over:
//   sums[pixel][k] += ring[row + u][pixel + v][c] weights[v][u][k][c]     for each tap (u, v)
// The order of the sums does not depend on the grid.
//
// Rows that are to be masked or rounded to tf32 are, in the ring, between their arrival and their first use:
// each element once, where the fragments would be rounded once per warp and tap column.
//
// Registers: 16 kRows sums, 4 kWindow of input fragments, 4 of weights: 92 of the 172 of the large 3x3 tile
// (254 on sm_120).
#include "conv_packed.h"
#include "conv_rowring.cuh"
#include "conv_rowring_epilogue.cuh"
#include "conv_variants.h"

namespace denoise_ext::cuda {
namespace {

constexpr int kPackThreads = 256;

template <class Storage, int kKernel, bool kLarge, bool kSplit>
using RingOf = RowRing<static_cast<int>(sizeof(Storage)), kKernel, kLarge, kSplit>;

// packed: (output block, chunk, column v, tap u, 64 outputs, kChunk inputs), the outputs in the order of
// column_channel(), the vectors of each row in that in which the ring has them; zero for channels that do
// not exist. Storage: float, or Float16 for any 16 bits.
template <class Storage, int kKernel, bool kSplit>
__global__ void __launch_bounds__(kPackThreads)
    row_ring_pack_kernel(ConvParams p, RowRingPlan plan, unsigned char* packed, int64_t vectors) {
  using Ring = RingOf<Storage, kKernel, false, kSplit>;  // the layout is the same for both tiles
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kPackThreads + threadIdx.x; i < vectors;
       i += static_cast<int64_t>(gridDim.x) * kPackThreads) {
    const int vector = static_cast<int>(i % Ring::kVectors);
    const int64_t row = i / Ring::kVectors;
    const int output = static_cast<int>(row % kRowRingOutputs);
    const int channel = output / 32 * 32 + column_channel(output % 32 / 8, output % 8);
    int u = static_cast<int>(row / kRowRingOutputs % kKernel);
    const int64_t column = row / (kRowRingOutputs * kKernel);
    int v = static_cast<int>(column % kKernel);
    const int64_t c = column / kKernel % plan.chunks * Ring::kChunk + vector * kVectorLanes<Storage>;
    const int64_t k = column / kKernel / plan.chunks * kRowRingOutputs + channel;
    if (p.transposed) {
      u = kKernel - 1 - u;
      v = kKernel - 1 - v;
    }
    // Seen as a tensor of one channel axis, that of the input.
    Tensor4 weight = p.weight;
    weight.size[1] = p.input.size[1];
    weight.stride[1] = p.weight.stride[p.transposed ? 0 : 1];
    const int64_t output_stride = p.weight.stride[p.transposed ? 1 : 0];
    const Storage* const from = k < p.output.size[1]
                                    ? static_cast<const Storage*>(p.weight.data) + k * output_stride +
                                          u * p.weight.stride[2] + v * p.weight.stride[3]
                                    : nullptr;
    const int64_t first = row / kRowRingOutputs * kRowRingOutputs * Ring::kPixelBytes;
    *reinterpret_cast<uint4*>(packed + first + Ring::offset(output, vector)) =
        as_factors<Storage, !Ring::kSplit>(gather_channels(weight, from, c));
  }
}

// What a block has at hand.
struct RowRingMemory {
  unsigned char* weights;  // weight_slots columns of (tap, 64, kChunk)
  unsigned char* ring;     // (planes, ring_rows, kPixels, kChunk)
  float* channels;         // (2, 64): bias, slope below zero
};

// Before the products of a step's column number `column`, a plane's: waits until its input and weights
// are there, and starts the copies of those that follow. Returns the column's place in `weights`.
template <class Storage, class Ring>
__device__ __forceinline__ const unsigned char* begin_column(const ConvParams& p, const RowRingPlan& plan,
                                                             const RowRingMemory& memory, const uint4* packed,
                                                             const RowRingStep& step, const RowRingStep& next,
                                                             bool prefetch, int column, int64_t sequence,
                                                             int64_t end) {
  const bool first = column == 0;
  const int per_block = plan.chunks * Ring::kKernel;
  const int64_t number = int64_t{step.output_block} * per_block + step.chunk * Ring::kKernel + column;
  const bool resident = plan.weight_slots == per_block, alternate = !resident && plan.weight_slots == 2;
  const int slot = resident    ? step.chunk * Ring::kKernel + column
                   : alternate ? static_cast<int>(sequence % 2)
                               : 0;
  if (!resident && !alternate) {
    __syncthreads();
    load_columns<Ring>(packed, number, 1, memory.weights);
    cp_async_commit();
  }
  if (first || !resident) {
    cp_async_wait<0>();
    __syncthreads();
  }
  if (first && rows_need_finishing<Storage, Ring>(p, plan)) {
    finish_rows<Storage, Ring>(p, plan, step, memory.ring);
    __syncthreads();
  }
  if (alternate) {
    const bool within = column + 1 < plan.planes * Ring::kKernel;
    const int64_t following =
        within ? number + 1 : int64_t{next.output_block} * per_block + next.chunk * Ring::kKernel;
    if (within || next.group < end)
      load_columns<Ring>(packed, following, 1, memory.weights + (1 - slot) * Ring::kColumnBytes);
  }
  if (first && prefetch) load_rows<Storage, Ring>(p, plan, next, memory.ring);
  cp_async_commit();
  return memory.weights + slot * Ring::kColumnBytes;
}

// grid: plan.blocks; a block takes a run of the plan.groups row groups.
template <class Storage, int kKernel, bool kLarge, bool kSplit>
__global__ void __launch_bounds__(RingOf<Storage, kKernel, kLarge, kSplit>::kThreads,
                                  RingOf<Storage, kKernel, kLarge, kSplit>::kBlocks)
    row_ring_kernel(ConvParams p, RowRingPlan plan, const uint4* packed) {
  using Ring = RingOf<Storage, kKernel, kLarge, kSplit>;
  SharedArena arena;
  RowRingMemory memory{};
  memory.weights = arena.take<unsigned char>(plan.weight_slots * Ring::kColumnBytes);
  memory.ring = arena.take<unsigned char>(plan.planes * plan.ring_rows * Ring::kRowBytes);
  memory.channels = arena.take<float>(2 * kRowRingOutputs);
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int warp_x = warp % Ring::kWarpsAlong * 16, warp_output = warp / Ring::kWarpsAlong * 32;
  const int64_t end = plan.groups * (blockIdx.x + 1) / gridDim.x;
  const int columns = plan.planes * kKernel, all_columns = plan.chunks * kKernel;
  const bool resident = plan.weight_slots == all_columns;
  RowRingStep step = first_step<Ring>(p, plan.groups * blockIdx.x / gridDim.x);
  int output_block = -1;
  int64_t sequence = 0;
  RowRingSums<Ring> sums = {};
  bool loaded = false;  // the step's rows have been asked for
  if (!resident && plan.weight_slots == 2)
    load_columns<Ring>(packed, int64_t{step.output_block} * all_columns, 1, memory.weights);
  while (step.group < end) {
    if (!loaded) {
      __syncthreads();
      load_rows<Storage, Ring>(p, plan, step, memory.ring);
      cp_async_commit();
    }
    const RowRingStep next = next_step<Ring>(p, plan, step);
    const bool more = next.group < end;
    const bool prefetch = more && Ring::kWindow + new_rows<Ring>(next) <= plan.ring_rows;
    if (step.output_block != output_block) {
      output_block = step.output_block;
      __syncthreads();
      load_channel_terms<Storage>(p, int64_t{output_block} * kRowRingOutputs, kRowRingOutputs,
                                  memory.channels, memory.channels + kRowRingOutputs);
      if (resident)
        load_columns<Ring>(packed, int64_t{output_block} * all_columns, all_columns, memory.weights);
      cp_async_commit();
    }
    // Warps past the last channel or pixel only help to load.
    const bool active = int64_t{output_block} * kRowRingOutputs + warp_output < p.output.size[1] &&
                        step.x + warp_x < p.output.size[3];
    int rows[Ring::kWindow];
#pragma unroll
    for (int i = 0; i < Ring::kWindow; ++i) rows[i] = window_row<Ring>(plan, step, i);
    for (int column = 0; column < columns; ++column, ++sequence) {
      const unsigned char* const weights =
          begin_column<Storage, Ring>(p, plan, memory, packed, step, next, prefetch, column, sequence, end);
      const int plane = column / kKernel;
      if (active)
        multiply_column<Storage, Ring>(sums, memory.ring + plane * plan.ring_rows * Ring::kRowBytes, rows,
                                       warp_x + column % kKernel, weights, warp_output,
                                       chunk_products<Ring>(p, step.chunk + plane));
    }
    if (active && step.chunk + plan.planes >= plan.chunks)
      finish_group<Storage, Ring>(p, plan, sums, step, warp_x, warp_output, memory.channels);
    step = next;
    loaded = prefetch;
  }
}

// Where the weight is to be packed, or nullptr; and the packed one to multiply by, or nullptr.
struct PackedWeights {
  void* to;
  const void* from;
};

template <class Storage, int kKernel, bool kLarge, bool kSplit>
int launch_tile(const ConvParams& params, const RowRingPlan& plan, const LaunchContext& context,
                const void* packed) {
  return launch(row_ring_kernel<Storage, kKernel, kLarge, kSplit>, dim3(static_cast<unsigned>(plan.blocks)),
                dim3(RingOf<Storage, kKernel, kLarge, kSplit>::kThreads), plan.shared_bytes, context.stream,
                params, plan, static_cast<const uint4*>(packed));
}

template <class Storage, int kKernel, bool kSplit>
int launch_pack(const ConvParams& params, const RowRingPlan& plan, const LaunchContext& context, void* to) {
  using Packed = std::conditional_t<sizeof(Storage) == 2, Float16, Storage>;
  const int64_t vectors = row_ring_workspace_bytes(params, context.limits) / 16;
  const int64_t blocks = (vectors + kPackThreads - 1) / kPackThreads;
  const int64_t most = 8 * static_cast<int64_t>(context.limits.multiprocessors);
  return launch(row_ring_pack_kernel<Packed, kKernel, kSplit>,
                dim3(static_cast<unsigned>(blocks < most ? blocks : most)), dim3(kPackThreads), 0,
                context.stream, params, plan, static_cast<unsigned char*>(to), vectors);
}

template <class Storage, int kKernel, bool kSplit>
int launch_kernel(const ConvParams& params, const RowRingPlan& plan, const LaunchContext& context,
                  const PackedWeights& weights) {
  if (weights.to != nullptr) {
    const int code = launch_pack<Storage, kKernel, kSplit>(params, plan, context, weights.to);
    if (code != 0 || weights.from == nullptr) return code;
  }
  if constexpr (has_large_tile(sizeof(Storage), kKernel))
    if (plan.large) return launch_tile<Storage, kKernel, true, kSplit>(params, plan, context, weights.from);
  return launch_tile<Storage, kKernel, false, kSplit>(params, plan, context, weights.from);
}

template <class Storage, bool kSplit>
int launch_storage(const ConvParams& params, const RowRingPlan& plan, const LaunchContext& context,
                   const PackedWeights& weights) {
  switch (plan.kernel) {
    case 1: return launch_kernel<Storage, 1, kSplit>(params, plan, context, weights);
    case 3: return launch_kernel<Storage, 3, kSplit>(params, plan, context, weights);
    case 5: return launch_kernel<Storage, 5, kSplit>(params, plan, context, weights);
    default: return static_cast<int>(cudaErrorInvalidValue);
  }
}

int launch_with(const ConvParams& params, const LaunchContext& context, const PackedWeights& weights) {
  const RowRingPlan plan = row_ring_plan(params, context.limits);
  if (plan.split) return launch_storage<float, true>(params, plan, context, weights);
  return with_vector_storage(params.input.dtype, [&](auto storage) {
    return launch_storage<decltype(storage), false>(params, plan, context, weights);
  });
}

}  // namespace

int conv_rowring_launch(const ConvParams& params, const LaunchContext& context) {
  return launch_with(params, context, {context.workspace, context.workspace});
}

int conv_rowring_pack(const ConvParams& params, const LaunchContext& context, void* packed) {
  return launch_with(params, context, {packed, nullptr});
}

int conv_rowring_launch_packed(const ConvParams& params, const LaunchContext& context, const void* packed) {
  return launch_with(params, context, {nullptr, packed});
}

}  // namespace denoise_ext::cuda
