// Sigma's gradient: gaussian_step.cuh with one axis' taps replaced by their derivative, each result
// multiplied by the gradient of the blurred image. Blocks leave partial sums in double, which a second
// kernel adds in a fixed order.
#include "common.cuh"
#include "gaussian_step.cuh"
#include "gaussian_variants.h"
#include "primitives.cuh"

namespace denoise_ext::cuda {
namespace {

constexpr int kSumThreads = 256;

template <class Acc>
__global__ void __launch_bounds__(kMostGroups* kThreadRows, sizeof(Acc) == 4 ? 2 : 1)
    gaussian_sigma_ring_kernel(GaussianRing p) {
  run_gaussian_ring<Acc, GaussianMode::kSigmaGradient>(p);
}

// Block (row, axis)
__global__ void __launch_bounds__(kSumThreads)
    gaussian_sum_partials_kernel(const double* partials, double* grad_sigma, int64_t count, int64_t per_row) {
  __shared__ double sums[kSumThreads];
  const double* from = partials + blockIdx.y * count + blockIdx.x * per_row;
  double sum = 0;
  for (int64_t i = threadIdx.x; i < per_row; i += kSumThreads) sum += from[i];
  sum = block_sum(sum, sums);
  if (threadIdx.x == 0) grad_sigma[2 * blockIdx.x + blockIdx.y] = sum;
}

GaussianTableRequest table_request(const GaussianSigmaGradParams& params) {
  return {params.input, params.sigma, params.sigma_row, params.kernel_size, params.border, false, true};
}

template <class Acc>
bool make_ring(const GaussianSigmaGradParams& params, const DeviceLimits& limits, GaussianRing& p) {
  p.input = params.input;
  p.output = params.grad_output;
  p.sigma = params.sigma;
  for (int axis = 0; axis < 2; ++axis) p.sigma_row[axis] = params.sigma_row[axis];
  p.border = params.border;
  return plan_gaussian_ring<Acc>(p, params.kernel_size, true, limits);
}

template <class Acc>
int launch_ring(const GaussianSigmaGradParams& params, const LaunchContext& context) {
  GaussianRing p{};
  make_ring<Acc>(params, context.limits, p);
  const GaussianTableRequest request = table_request(params);
  const int64_t tables = place_gaussian_tables(request, context.workspace, &p.tables);
  p.partials = reinterpret_cast<double*>(static_cast<char*>(context.workspace) + tables);
  int code = launch_gaussian_tables(request, p.tables, context.stream);
  if (code != 0) return code;
  code = launch(gaussian_sigma_ring_kernel<Acc>, gaussian_ring_grid(p, 2),
                dim3(static_cast<unsigned>(p.threads())), gaussian_ring_bytes<Acc>(p), context.stream, p);
  if (code != 0) return code;
  return gaussian_sum_partials_launch(p.partials, params.grad_sigma, p.tasks(), sigma_rows(params.sigma),
                                      context.stream);
}

}  // namespace

bool gaussian_sigma_grad_ring_fits(const GaussianSigmaGradParams& params, const DeviceLimits& limits) {
  GaussianRing p{};
  return params.input.dtype == DType::kFloat64 ? make_ring<double>(params, limits, p)
                                               : make_ring<float>(params, limits, p);
}

int64_t gaussian_sigma_grad_ring_workspace(const GaussianSigmaGradParams& params,
                                           const DeviceLimits& limits) {
  GaussianRing p{};
  if (params.input.dtype == DType::kFloat64) {
    make_ring<double>(params, limits, p);
  } else {
    make_ring<float>(params, limits, p);
  }
  return place_gaussian_tables(table_request(params), nullptr, nullptr) +
         2 * p.tasks() * static_cast<int64_t>(sizeof(double));
}

int gaussian_sigma_grad_ring_launch(const GaussianSigmaGradParams& params, const LaunchContext& context) {
  return params.input.dtype == DType::kFloat64 ? launch_ring<double>(params, context)
                                               : launch_ring<float>(params, context);
}

int gaussian_sum_partials_launch(const double* partials, double* grad_sigma, int64_t count, int64_t rows,
                                 void* stream) {
  return launch(gaussian_sum_partials_kernel, dim3(static_cast<unsigned>(rows), 2), dim3(kSumThreads), 0,
                stream, partials, grad_sigma, count, count / rows);
}

}  // namespace denoise_ext::cuda
