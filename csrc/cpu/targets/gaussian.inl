// The kernel bodies of the Gaussian filter and the table made of them, for every target's region.
// Includes no header: one opened inside a target region would be compiled for that ISA alone.

// The order matters (vectors, packing, then kernels); the blank lines keep clang-format from sorting.
#include "../kernels/simd.inl"

#include "../kernels/image_row.inl"

#include "../kernels/gaussian.inl"

#include "../kernels/gaussian_dense.inl"

constexpr GaussianKernels kernel_table() {
  GaussianKernels table{};
  table.task_f32 = gaussian_task<float>;
  table.task_f64 = gaussian_task<double>;
  table.dense_task_f32 = gaussian_dense_task<float>;
  table.dense_task_u8 = gaussian_dense_task<uint8_t>;
  table.sigma_task_f32 = gaussian_sigma_task<float>;
  table.sigma_task_f64 = gaussian_sigma_task<double>;
  return table;
}
