// Convolution weights packed once for many calls: a header with their geometry and instruction set, then the
// weights in the order in which the kernels read them.
#pragma once

#include <cstdint>

#include "conv_params.h"
#include "threads.h"

namespace denoise_ext::cpu {

struct KernelTable;

// What the order of a weight depends on besides the algorithm. Winograd's takes all of it. The direct one of
// a transposed convolution too, and of an ordinary one nothing.
struct PackGeometry {
  int64_t stride[2] = {1, 1};
  int64_t padding[2] = {0, 0};
  bool transposed = false;
};
constexpr int64_t kLargestPackedStride = 255;

// One cache line, so that the weights behind it are as aligned as the buffer is.
struct PackedWeightHeader {
  char tag[8];
  ConvAlgorithm algorithm;
  DType accumulation;  // kFloat32 or kFloat64: of the packed weights
  int32_t vector_bytes, accumulators;
  int64_t size[4];                  // of the weight: K, C, KH, KW, or C, K, KH, KW where transposed
  uint8_t stride[2], remainder[2];  // of padding by stride; ones and zeros where they do not count
  uint8_t transposed, reserved[3];
};
static_assert(sizeof(PackedWeightHeader) == 64);

// Elements (float32, or float64 for float64 weights) of the buffer that pack_conv_weight() fills, the
// same for every instruction set. Of `weight` its sizes and dtype count; algorithm is not kAuto.
int64_t packed_weight_elements(const Tensor4& weight, const PackGeometry& geometry, ConvAlgorithm algorithm);

// Why a weight cannot be packed so, or nullptr.
const char* pack_obstacle(const Tensor4& weight, const PackGeometry& geometry, ConvAlgorithm algorithm);

// Fills `to` with `weight` (one group) for the instruction set in use.
void pack_conv_weight(const Tensor4& weight, const PackGeometry& geometry, ConvAlgorithm algorithm, void* to,
                      const Threads& threads);

// Why params.packed_weight cannot serve this convolution on this instruction set, or nullptr.
const char* packed_weight_mismatch(const ConvParams& params, const KernelTable& table);

// What params.packed_weight was packed for.
const PackedWeightHeader& packed_weight_header(const ConvParams& params);

}  // namespace denoise_ext::cpu
