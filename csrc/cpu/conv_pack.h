// Convolution weights packed once for many calls: a header with their geometry and instruction set, then the
// weights in the order in which the kernels read them.
#pragma once

#include <cstdint>

#include "conv_params.h"
#include "threads.h"

namespace denoise_ext::cpu {

struct KernelTable;

// One cache line, so that the weights behind it are as aligned as the buffer is.
struct PackedWeightHeader {
  char tag[8];
  ConvAlgorithm algorithm;
  DType accumulation;  // kFloat32 or kFloat64: of the packed weights
  int32_t vector_bytes, accumulators;
  int64_t size[4];  // of the weight: K, C, KH, KW
  int64_t reserved;
};
static_assert(sizeof(PackedWeightHeader) == 64);

// Elements (float32, or float64 for float64 weights) of the buffer that pack_conv_weight() fills, the
// same for every instruction set. `size` and `dtype` are the weight's; algorithm is not kAuto.
int64_t packed_weight_elements(const int64_t size[4], DType dtype, ConvAlgorithm algorithm);

// Fills `to` with `weight` (K, C, KH, KW; one group) for the instruction set in use.
void pack_conv_weight(const Tensor4& weight, ConvAlgorithm algorithm, void* to, const Threads& threads);

// Why params.packed_weight cannot serve this convolution on this instruction set, or nullptr.
const char* packed_weight_mismatch(const ConvParams& params, const KernelTable& table);

// What params.packed_weight was packed for.
const PackedWeightHeader& packed_weight_header(const ConvParams& params);

}  // namespace denoise_ext::cpu
