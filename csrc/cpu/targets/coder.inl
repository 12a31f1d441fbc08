// The kernel bodies of entropy coding, and the table made of them, for every target's region.
// Includes no header: one opened inside a target region would be compiled for that ISA alone.

// The order matters (vectors, streams, latents); the blank lines keep clang-format from sorting.
#include "../kernels/simd.inl"

#include "../kernels/rans.inl"

#include "../kernels/latents.inl"

constexpr CoderKernels kernel_table() {
  CoderKernels table{};
  table.rans_decode = rans_decode;
  table.latent_symbols = latent_symbols;
  table.decode_latents = decode_latents;
  return table;
}
