// The kernel bodies of Winograd's convolutions and GDN, and the table of them, for every target's region.
// Includes no header: one opened inside a target region would be compiled for that ISA alone.

// The order matters (vectors, packing, then kernels); the blank lines keep clang-format from sorting.
#include "../kernels/simd.inl"

#include "../kernels/pack.inl"

#include "../kernels/activate.inl"

#include "../kernels/conv_epilogue.inl"

#include "../kernels/winograd_transforms.inl"

#include "../kernels/winograd_gemm.inl"

#include "../kernels/winograd_prefetch.inl"

#include "../kernels/winograd.inl"

#include "../kernels/winograd_pack.inl"

#include "../kernels/winograd_weight_grad.inl"

#include "../kernels/gdn.inl"

constexpr WinogradKernels kernel_table() {
  WinogradKernels table{};
  table.block_2 = winograd_block<Winograd2>;
  table.block_4 = winograd_block<Winograd4>;
  table.block_6 = winograd_block<Winograd6>;
  table.pack_2 = winograd_pack<Winograd2>;
  table.pack_4 = winograd_pack<Winograd4>;
  table.pack_6 = winograd_pack<Winograd6>;
  table.weight_grad_task = winograd_weight_grad_task;
  table.gdn_piece = gdn_piece;
  return table;
}
