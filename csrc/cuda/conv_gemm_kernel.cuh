// The kernels of conv_gemm.h, for any Products: one that packs the weights and writes the table of terms, and
// one that multiplies.
//
// A block computes one tile of the product, pixels x output channels. It goes over the terms in chunks of 64
// bytes: while one is multiplied the next ones are on their way to shared memory. A block's sums are each
// formed by one thread, in the order of the terms.
#pragma once

#include "../params/arithmetic.h"
#include "conv_gemm_tile.cuh"

namespace denoise_ext::cuda {

constexpr int kGemmPackThreads = 256;

// Which phase of the rows and which of the columns is number i.
__device__ __forceinline__ const ConvGemmPhase& row_phase(const ConvGemmPlan& plan, int i) {
  return plan.axis[0].phase[i / plan.axis[1].phases];
}
__device__ __forceinline__ const ConvGemmPhase& column_phase(const ConvGemmPlan& plan, int i) {
  return plan.axis[1].phase[i % plan.axis[1].phases];
}

__device__ __forceinline__ GemmTerm gemm_term(const ConvParams& p, const ConvGemmPlan& plan, int phase,
                                              int64_t k, int element_bytes) {
  const int tap = static_cast<int>(k / plan.inputs), c = static_cast<int>(k % plan.inputs);
  const int columns = column_phase(plan, phase).taps;
  if (tap >= row_phase(plan, phase).taps * columns) return {0, kGemmNoTap};
  const int u = tap / columns, v = tap % columns;
  const int64_t elements = int64_t{u} * plan.axis[0].input_tap_step * p.input.stride[2] +
                           int64_t{v} * plan.axis[1].input_tap_step * p.input.stride[3] +
                           c * p.input.stride[1];
  return {elements * element_bytes, 1u << u | 1u << (16 + v)};
}

// The weight of term k for output channel `output` of a group; 0 where there is none.
template <class Products>
__device__ __forceinline__ uint32_t gemm_weight(const ConvParams& p, const ConvGemmPlan& plan, int phase,
                                                int64_t group, int output, int64_t k) {
  const ConvGemmPhase &rows = row_phase(plan, phase), &columns = column_phase(plan, phase);
  const int tap = static_cast<int>(k / plan.inputs), c = static_cast<int>(k % plan.inputs);
  if (output >= plan.outputs || tap >= rows.taps * columns.taps) return 0;
  const int u = rows.tap + tap / columns.taps * plan.axis[0].tap_step;
  const int v = columns.tap + tap % columns.taps * plan.axis[1].tap_step;
  using Storage = typename Products::Storage;
  return Products::factor_bits(p.transposed
                                   ? *element<Storage>(p.weight, group * plan.inputs + c, output, u, v)
                                   : *element<Storage>(p.weight, group * plan.outputs + output, c, u, v));
}

// The table of terms (phase, term), and the weights (group, output block, phase, chunk, row of the tile),
// each row as gemm_offset() has it. One thread writes 16 bytes: those of number `first` to `end`, the table's
// first.
template <class Products>
__global__ void __launch_bounds__(kGemmPackThreads)
    conv_gemm_pack_kernel(ConvParams p, ConvGemmPlan plan, unsigned char* table, unsigned char* weights,
                          int64_t first, int64_t end) {
  constexpr int kPerWord = 4 / Products::kTile.element_bytes;
  constexpr int kOutputs = Products::kTile.outputs, kChunk = kGemmChunk<Products>;
  const int64_t phase_terms = int64_t{plan.chunks} * kChunk, terms = plan.table_bytes / 16;
  const int phases = plan.axis[0].phases * plan.axis[1].phases;
  for (int64_t i = first + static_cast<int64_t>(blockIdx.x) * kGemmPackThreads + threadIdx.x; i < end;
       i += static_cast<int64_t>(gridDim.x) * kGemmPackThreads) {
    if (i < terms) {
      reinterpret_cast<uint4*>(table)[i] =
          term_in_memory(gemm_term(p, plan, static_cast<int>(i / phase_terms), i % phase_terms,
                                   static_cast<int>(sizeof(typename Products::Storage))));
      continue;
    }
    int64_t at = i - terms;
    const int vector = static_cast<int>(at % kGemmVectors);
    at /= kGemmVectors;
    const int row = static_cast<int>(at % kOutputs);
    at /= kOutputs;
    unsigned char* const tile = weights + at * kOutputs * kGemmRowBytes;
    const int64_t k = at % plan.chunks * kChunk + vector * (16 / Products::kTile.element_bytes);
    at /= plan.chunks;
    const int phase = static_cast<int>(at % phases);
    at /= phases;
    const int output = static_cast<int>(at % plan.output_blocks) * kOutputs + Products::row_channel(row);
    const int64_t group = at / plan.output_blocks;
    uint32_t word[4] = {0, 0, 0, 0};
#pragma unroll
    for (int j = 0; j < 4 * kPerWord; ++j)
      word[j / kPerWord] |= gemm_weight<Products>(p, plan, phase, group, output, k + j)
                            << (16 * (j % kPerWord));
    *reinterpret_cast<uint4*>(tile + gemm_offset(row, vector)) = uint4{word[0], word[1], word[2], word[3]};
  }
}

// Where a block is in the grid: output blocks innermost, for they read the same pixels.
struct GemmPlace {
  int output_block, phase;
  int64_t tile, group;
};
__device__ __forceinline__ GemmPlace gemm_place(const ConvParams& p, const ConvGemmPlan& plan) {
  int64_t at = blockIdx.x;
  GemmPlace place{};
  place.output_block = static_cast<int>(at % plan.output_blocks);
  at /= plan.output_blocks;
  place.tile = at % plan.tiles;
  at /= plan.tiles;
  place.group = at % p.groups;
  place.phase = static_cast<int>(at / p.groups);
  return place;
}

// The sums of all chunks; `outputs`: channels of the group from the tile's first on. stages: kStages times
// the pixels, then the weights, of one chunk.
template <class Products>
__device__ __forceinline__ void sum_chunks(const ConvGemmPlan& plan, const unsigned char* input,
                                           const GemmPixel* pixels, const uint4* terms,
                                           const unsigned char* packed, int chunks, int outputs,
                                           unsigned char* stages, typename Products::Sums& sums) {
  constexpr ConvGemmTile kTile = Products::kTile;
  constexpr int kPixelBytes = kTile.pixels * kGemmRowBytes, kWeightBytes = kTile.outputs * kGemmRowBytes;
  constexpr int kStageBytes = kPixelBytes + kWeightBytes, kChunk = kGemmChunk<Products>;
  GemmRows<Products> rows;
  const auto stage = [&](int chunk) { return stages + chunk % kTile.stages * kStageBytes; };
  const auto copy = [&](int chunk) {
    if (chunk < chunks) {
      copy_weights<Products>(packed + int64_t{chunk} * kWeightBytes, stage(chunk) + kPixelBytes);
      if constexpr (Products::kCopies)
        if (plan.vector_input) copy_pixels<Products>(input, pixels, terms + chunk * kChunk, stage(chunk));
    }
    cp_async_commit();
  };
#pragma unroll
  for (int chunk = 0; chunk < kTile.stages - 1; ++chunk) copy(chunk);
  if (!plan.vector_input) {
    fetch_pixels<Products>(input, pixels, terms, rows);
    put_pixels<Products>(rows, stage(0));
  }
#pragma unroll 1
  for (int chunk = 0; chunk < chunks; ++chunk) {
    cp_async_wait<kTile.stages - 2>();
    if constexpr (Products::kCopies && Products::kRounds)
      if (plan.vector_input) round_pixels<Products>(stage(chunk));
    __syncthreads();
    copy(chunk + kTile.stages - 1);
    const bool fetches = !plan.vector_input && chunk + 1 < chunks;
    if (fetches) fetch_pixels<Products>(input, pixels, terms + (chunk + 1) * kChunk, rows);
    Products::multiply(sums, stage(chunk), stage(chunk) + kPixelBytes, outputs);
    if (fetches) put_pixels<Products>(rows, stage(chunk + 1));
  }
}

// grid: plan.blocks.
template <class Products>
__global__ void __launch_bounds__(Products::kTile.threads, Products::kBlocks)
    conv_gemm_kernel(ConvParams p, ConvGemmPlan plan, const unsigned char* table,
                     const unsigned char* weights) {
  using Storage = typename Products::Storage;
  constexpr ConvGemmTile kTile = Products::kTile;
  constexpr int kChunk = kGemmChunk<Products>;
  SharedArena arena;
  unsigned char* const stages =
      arena.take<unsigned char>(kTile.stages * (kTile.pixels + kTile.outputs) * kGemmRowBytes);
  GemmPixel* const pixels = arena.take<GemmPixel>(kTile.pixels);
  float* const channels = arena.take<float>(2 * kTile.outputs);  // biases, and slopes below zero

  const GemmPlace place = gemm_place(p, plan);
  const ConvGemmPhase &rows = row_phase(plan, place.phase), &columns = column_phase(plan, place.phase);
  const int64_t first_pixel = place.tile * kTile.pixels;
  if (first_pixel >= p.output.size[0] * rows.count * columns.count) return;
  const int64_t first_output = place.group * plan.outputs + place.output_block * kTile.outputs;
  find_pixels<Products>(p, plan, rows, columns, first_pixel, pixels);
  load_channel_terms<Storage>(p, first_output, kTile.outputs, channels, channels + kTile.outputs);
  __syncthreads();

  const int phases = plan.axis[0].phases * plan.axis[1].phases;
  const int chunks =
      static_cast<int>((int64_t{rows.taps} * columns.taps * plan.inputs + kChunk - 1) / kChunk);
  const int64_t block = (place.group * plan.output_blocks + place.output_block) * phases + place.phase;
  typename Products::Sums sums = {};
  if (chunks > 0)
    sum_chunks<Products>(
        plan,
        reinterpret_cast<const unsigned char*>(static_cast<const Storage*>(p.input.data) +
                                               place.group * plan.inputs * p.input.stride[1]),
        pixels, reinterpret_cast<const uint4*>(table) + int64_t{place.phase} * plan.chunks * kChunk,
        weights + block * plan.chunks * kTile.outputs * kGemmRowBytes, chunks,
        plan.outputs - place.output_block * kTile.outputs, stages, sums);

  // A loop that is not unrolled keeps the code of the activations small; its sums are always the first.
  const int first_channel = Products::first_channel();
  const int64_t end = (place.group + 1) * plan.outputs;
#pragma unroll 1
  for (int pair = 0; pair < Products::kPairs; ++pair) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const GemmPixel& pixel = pixels[Products::pixel_row(2 * pair + half)];
      if (pixel.image < 0) continue;
#pragma unroll
      for (int part = 0; part < 8 / kVectorLanes<Storage>; ++part) {
        float v[kVectorLanes<Storage>];
        const int channel = first_channel + part * kVectorLanes<Storage>;
#pragma unroll
        for (int i = 0; i < kVectorLanes<Storage>; ++i) {
          const int of_8 = part * kVectorLanes<Storage> + i;
          v[i] = sums[0][of_8 / 2][2 * half + of_8 % 2] + channels[channel + i];
        }
        finish_vector<Storage>(p, plan.wide_output, channels + kTile.outputs + channel, v, pixel.image,
                               first_output + channel, end, pixel.y, pixel.x);
      }
    }
#pragma unroll
    for (int i = 0; i + 1 < Products::kPairs; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int k = 0; k < 4; ++k) sums[i][j][k] = sums[i + 1][j][k];
  }
}

// Writes the vectors from `first` to `end` of table and weights.
template <class Products>
int launch_gemm_pack(const ConvParams& params, const ConvGemmPlan& plan, const LaunchContext& context,
                     unsigned char* table, unsigned char* weights, int64_t first, int64_t end) {
  if (first == end) return 0;
  const int64_t most = 8 * static_cast<int64_t>(context.limits.multiprocessors);
  const int64_t blocks = divide_up(end - first, kGemmPackThreads);
  return launch(conv_gemm_pack_kernel<Products>, dim3(static_cast<unsigned>(blocks < most ? blocks : most)),
                dim3(kGemmPackThreads), 0, context.stream, params, plan, table, weights, first, end);
}

// The weights alone.
template <class Products>
int pack_gemm(const ConvParams& params, const LaunchContext& context, void* packed) {
  const ConvGemmPlan plan = conv_gemm_plan(params, Products::kTile);
  const int64_t terms = plan.table_bytes / 16;
  return launch_gemm_pack<Products>(params, plan, context, nullptr, static_cast<unsigned char*>(packed),
                                    terms, terms + plan.weight_bytes / 16);
}

// `packed`: the weights, if they are packed; nullptr: the workspace has room for them behind the table.
template <class Products>
int launch_gemm(const ConvParams& params, const LaunchContext& context, const void* packed) {
  const ConvGemmPlan plan = conv_gemm_plan(params, Products::kTile);
  unsigned char* const table = static_cast<unsigned char*>(context.workspace);
  unsigned char* const room = table + plan.table_bytes;
  const int64_t bytes = plan.table_bytes + (packed == nullptr ? plan.weight_bytes : 0);
  const int code = launch_gemm_pack<Products>(params, plan, context, table, room, 0, bytes / 16);
  if (code != 0) return code;
  return launch(conv_gemm_kernel<Products>, dim3(static_cast<unsigned>(plan.blocks)),
                dim3(Products::kTile.threads), plan.shared_bytes, context.stream, params, plan,
                static_cast<const unsigned char*>(table),
                static_cast<const unsigned char*>(packed == nullptr ? room : packed));
}

}  // namespace denoise_ext::cuda
