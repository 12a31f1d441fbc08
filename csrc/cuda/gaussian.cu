// The Gaussian filter, its adjoint and sigma's gradient while rows fit shared memory: gaussian_step.cuh. The
// filter's taps are made by each block, the others' come from tables in the workspace. Of sigma's gradient
// blocks leave partial sums in double, which a second kernel adds in a fixed order.
#include "common.cuh"
#include "gaussian_step.cuh"
#include "gaussian_variants.h"
#include "primitives.cuh"

namespace denoise_ext::cuda {
namespace {

constexpr int kSumThreads = 256;

// One kernel for all modes, which differ outside of the loops over taps.
template <class Acc>
__global__ void __launch_bounds__(kMostGroups* kThreadRows, kRegisterBlocks<Acc>)
    gaussian_ring_kernel(GaussianRing p) {
  run_gaussian_ring<Acc>(p);
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

GaussianTableRequest table_request(const GaussianParams& params) {
  return {params.input, params.sigma, params.sigma_row, params.kernel_size, params.border, true, false};
}
GaussianTableRequest table_request(const GaussianSigmaGradParams& params) {
  return {params.input, params.sigma, params.sigma_row, params.kernel_size, params.border, false, true};
}

const Tensor4& result_of(const GaussianParams& params) {
  return params.output;
}
const Tensor4& result_of(const GaussianSigmaGradParams& params) {
  return params.grad_output;
}

template <class Acc, class Params>
bool make_ring(const Params& params, GaussianMode mode, const DeviceLimits& limits, GaussianRing& p) {
  p.input = params.input;
  p.output = result_of(params);
  p.sigma = params.sigma;
  for (int axis = 0; axis < 2; ++axis) p.sigma_row[axis] = params.sigma_row[axis];
  p.border = params.border;
  p.mode = mode;
  return plan_gaussian_ring<Acc>(p, params.kernel_size, limits);
}

// False where it does not fit.
template <class Params>
bool make_ring(const Params& params, GaussianMode mode, const DeviceLimits& limits, GaussianRing& p) {
  return params.input.dtype == DType::kFloat64 ? make_ring<double>(params, mode, limits, p)
                                               : make_ring<float>(params, mode, limits, p);
}

int launch_ring(const GaussianRing& p, void* stream) {
  const dim3 grid = gaussian_ring_grid(p), block(static_cast<unsigned>(p.threads()));
  if (p.input.dtype == DType::kFloat64)
    return launch(gaussian_ring_kernel<double>, grid, block, gaussian_ring_bytes<double>(p), stream, p);
  return launch(gaussian_ring_kernel<float>, grid, block, gaussian_ring_bytes<float>(p), stream, p);
}

}  // namespace

bool gaussian_ring_fits(const GaussianParams& params, const DeviceLimits& limits) {
  GaussianRing p{};
  return make_ring(params, GaussianMode::kFilter, limits, p);
}

int64_t gaussian_ring_workspace(const GaussianParams& params, const DeviceLimits&) {
  return params.adjoint ? place_gaussian_tables(table_request(params), nullptr, nullptr) : 0;
}

int gaussian_ring_launch(const GaussianParams& params, const LaunchContext& context) {
  GaussianRing p{};
  make_ring(params, GaussianMode::kFilter, context.limits, p);
  if (params.adjoint) {
    const GaussianTableRequest request = table_request(params);
    place_gaussian_tables(request, context.workspace, &p.tables);
    // The tables hold what the border gives back; extended by zeros or periodically, the adjoint is the
    // filter itself.
    if (params.border == Border::kReflect || params.border == Border::kReplicate)
      p.border = Border::kConstant;
    const int code = launch_gaussian_tables(request, p.tables, context.stream);
    if (code != 0) return code;
  }
  return launch_ring(p, context.stream);
}

bool gaussian_sigma_grad_ring_fits(const GaussianSigmaGradParams& params, const DeviceLimits& limits) {
  GaussianRing p{};
  return make_ring(params, GaussianMode::kSigmaGradient, limits, p);
}

int64_t gaussian_sigma_grad_ring_workspace(const GaussianSigmaGradParams& params,
                                           const DeviceLimits& limits) {
  GaussianRing p{};
  make_ring(params, GaussianMode::kSigmaGradient, limits, p);
  return place_gaussian_tables(table_request(params), nullptr, nullptr) +
         2 * p.tasks() * static_cast<int64_t>(sizeof(double));
}

int gaussian_sigma_grad_ring_launch(const GaussianSigmaGradParams& params, const LaunchContext& context) {
  GaussianRing p{};
  make_ring(params, GaussianMode::kSigmaGradient, context.limits, p);
  const GaussianTableRequest request = table_request(params);
  const int64_t tables = place_gaussian_tables(request, context.workspace, &p.tables);
  p.partials = reinterpret_cast<double*>(static_cast<char*>(context.workspace) + tables);
  int code = launch_gaussian_tables(request, p.tables, context.stream);
  if (code == 0) code = launch_ring(p, context.stream);
  if (code != 0) return code;
  return gaussian_sum_partials_launch(p.partials, params.grad_sigma, p.tasks(), sigma_rows(params.sigma),
                                      context.stream);
}

int gaussian_sum_partials_launch(const double* partials, double* grad_sigma, int64_t count, int64_t rows,
                                 void* stream) {
  return launch(gaussian_sum_partials_kernel, dim3(static_cast<unsigned>(rows), 2), dim3(kSumThreads), 0,
                stream, partials, grad_sigma, count, count / rows);
}

}  // namespace denoise_ext::cuda
