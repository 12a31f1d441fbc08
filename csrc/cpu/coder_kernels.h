// The kernels of entropy coding: one table per instruction set.
#pragma once

#include "latents.h"

namespace denoise_ext::cpu {

// The classes and symbols of latents in the order of the coder.
struct LatentSymbols {
  uint8_t* symbols;   // of each latent
  uint16_t* classes;  // of each latent
  BitWriter* escapes;
};

struct CoderKernels {
  bool (*rans_decode)(const RansTables& tables, const uint16_t* classes, int64_t count, RansReader& reader,
                      uint8_t* symbols);
  // `sums` holds 2 channels.
  void (*latent_symbols)(const LatentModel& model, const int16_t* latents, int64_t rows, int64_t columns,
                         int32_t* sums, const LatentSymbols& found);
  const char* (*decode_latents)(const LatentModel& model, const RansTables& tables, RansReader& reader,
                                BitReader& escapes, int64_t rows, int64_t columns, int32_t* sums,
                                int16_t* latents);
};

}  // namespace denoise_ext::cpu
