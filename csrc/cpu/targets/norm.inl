// The kernel bodies of normalisation and the table made of them, for every target's region.
// Includes no header: one opened inside a target region would be compiled for that ISA alone.

// The order matters (vectors, packing, then kernels); the blank lines keep clang-format from sorting.
#include "../kernels/simd.inl"

#include "../kernels/pack.inl"

#include "../kernels/lines.inl"

#include "../kernels/activate.inl"

#include "../kernels/norm.inl"

constexpr NormKernels kernel_table() {
  NormKernels table{};
  table.layer_norm_piece = layer_norm_piece;
  table.group_norm_sums = group_norm_sums;
  table.group_norm_strip = group_norm_strip;
  return table;
}
