// The Gaussian filter: gaussian_step.cuh with taps made by each block.
#include "common.cuh"
#include "gaussian_step.cuh"
#include "gaussian_variants.h"
#include "primitives.cuh"

namespace denoise_ext::cuda {
namespace {

template <class Acc, GaussianMode kMode>
__global__ void __launch_bounds__(kMostGroups* kThreadRows, sizeof(Acc) == 4 ? 2 : 1)
    gaussian_ring_kernel(GaussianRing p) {
  run_gaussian_ring<Acc, kMode>(p);
}

GaussianTableRequest adjoint_request(const GaussianParams& params) {
  return {params.input, params.sigma, params.sigma_row, params.kernel_size, params.border, true, false};
}

template <class Acc>
bool make_ring(const GaussianParams& params, const DeviceLimits& limits, GaussianRing& p) {
  p.input = params.input;
  p.output = params.output;
  p.sigma = params.sigma;
  for (int axis = 0; axis < 2; ++axis) p.sigma_row[axis] = params.sigma_row[axis];
  p.border = params.border;
  return plan_gaussian_ring<Acc>(p, params.kernel_size, false, limits);
}

template <class Acc>
int launch_ring(const GaussianParams& params, const LaunchContext& context) {
  GaussianRing p{};
  make_ring<Acc>(params, context.limits, p);
  const size_t bytes = gaussian_ring_bytes<Acc>(p);
  const dim3 grid = gaussian_ring_grid(p, 1), block(static_cast<unsigned>(p.threads()));
  if (!params.adjoint)
    return launch(gaussian_ring_kernel<Acc, GaussianMode::kFilter>, grid, block, bytes, context.stream, p);
  const GaussianTableRequest request = adjoint_request(params);
  place_gaussian_tables(request, context.workspace, &p.tables);
  // The tables hold what the border gives back; extended by zeros or periodically, the adjoint is the
  // filter itself.
  if (params.border == Border::kReflect || params.border == Border::kReplicate) p.border = Border::kConstant;
  const int code = launch_gaussian_tables(request, p.tables, context.stream);
  if (code != 0) return code;
  return launch(gaussian_ring_kernel<Acc, GaussianMode::kAdjoint>, grid, block, bytes, context.stream, p);
}

}  // namespace

bool gaussian_ring_fits(const GaussianParams& params, const DeviceLimits& limits) {
  GaussianRing p{};
  return params.input.dtype == DType::kFloat64 ? make_ring<double>(params, limits, p)
                                               : make_ring<float>(params, limits, p);
}

int64_t gaussian_ring_workspace(const GaussianParams& params, const DeviceLimits&) {
  return params.adjoint ? place_gaussian_tables(adjoint_request(params), nullptr, nullptr) : 0;
}

int gaussian_ring_launch(const GaussianParams& params, const LaunchContext& context) {
  return params.input.dtype == DType::kFloat64 ? launch_ring<double>(params, context)
                                               : launch_ring<float>(params, context);
}

}  // namespace denoise_ext::cuda
