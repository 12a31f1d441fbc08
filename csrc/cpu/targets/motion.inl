// The kernel bodies of block matching, motion compensation and recurrent fusion, and the table made of them,
// for every target's region.
// Includes no header: one opened inside a target region would be compiled for that ISA alone.

// The order matters (vectors, then kernels); the blank lines keep clang-format from sorting.
#include "../kernels/simd.inl"

#include "../kernels/lines.inl"

#include "../kernels/block_match.inl"

#include "../kernels/block_warp.inl"

#include "../kernels/recurrent_fuse.inl"

constexpr MotionKernels kernel_table() {
  MotionKernels table{};
  table.pyramid_rows = pyramid_rows;
  table.match_row = match_row;
  table.warp_row = warp_row;
  table.warp_plane_adjoint = warp_plane_adjoint;
  table.fuse_row_f32 = fuse_row<float>;
  table.fuse_row_f64 = fuse_row<double>;
  table.fuse_grad_row_f32 = fuse_grad_row<float>;
  table.fuse_grad_row_f64 = fuse_grad_row<double>;
  return table;
}
