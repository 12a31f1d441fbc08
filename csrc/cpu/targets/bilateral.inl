// The kernel bodies of the joint bilateral filter and the table made of them, for every target's region.
// Includes no header: one opened inside a target region would be compiled for that ISA alone.

// The order matters (vectors, packing, then kernels); the blank lines keep clang-format from sorting.
#include "../kernels/simd.inl"

#include "../kernels/image_row.inl"

#include "../kernels/interleave_channels.inl"

#include "../kernels/bilateral.inl"

#include "../kernels/bilateral_fused.inl"

#include "../kernels/bilateral_grad.inl"

constexpr BilateralKernels kernel_table() {
  BilateralKernels table{};
  table.task_f32 = bilateral_task<float>;
  table.fused_task = bilateral_fused_task;
  table.task_f64 = bilateral_task<double>;
  table.normalise_task_f32 = bilateral_normalise_task<float>;
  table.normalise_task_f64 = bilateral_normalise_task<double>;
  table.grad_task_f32 = bilateral_grad_task<float>;
  table.grad_task_f64 = bilateral_grad_task<double>;
  return table;
}
