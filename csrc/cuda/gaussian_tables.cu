// Tables of Gaussian taps in the workspace: the taps, their derivatives, the adjoint's taps near edges.
#include "gaussian.cuh"

namespace denoise_ext::cuda {
namespace {

constexpr int kThreads = 128;

struct TableParams {
  GaussianTables tables;
  Tensor1 sigma;
  double sigma_row[2];
  int radius[2];
  int64_t extent[2];
  bool fixed_point;
  Border border;
};

// Block (row, axis): taps and derivative of one sigma along one axis.
template <class Acc>
__global__ void __launch_bounds__(kThreads) gaussian_taps_kernel(TableParams p) {
  const int row = static_cast<int>(blockIdx.x), axis = static_cast<int>(blockIdx.y);
  const int thread = static_cast<int>(threadIdx.x);
  const int radius = axis == 0 ? p.radius[0] : p.radius[1];
  const double sigma = sigma_value(p.sigma, axis == 0 ? p.sigma_row[0] : p.sigma_row[1], 2 * row + axis);
  double* half = (axis == 0 ? p.tables.half[0] : p.tables.half[1]) + row * taps_scratch(radius);
  const int size = 2 * radius + 1;
  const int64_t start = static_cast<int64_t>(row) * size;
  Acc* taps = static_cast<Acc*>(axis == 0 ? p.tables.taps[0] : p.tables.taps[1]) + start;
  void* derivative = axis == 0 ? p.tables.derivative[0] : p.tables.derivative[1];
  if (derivative != nullptr) {
    const AxisTaps<Acc> wanted{
        sigma, radius, size, Taps::kDerivative, half, static_cast<Acc*>(derivative) + start};
    make_taps(wanted, thread, kThreads);
    __syncthreads();
  }
  const AxisTaps<Acc> wanted{sigma, radius, size, p.fixed_point ? Taps::kFixedPoint : Taps::kGaussian,
                             half,  taps};
  make_taps(wanted, thread, kThreads);
}

// Block (edge, row): the taps with which the adjoint gathers a position from its neighbours: the filter's
// own, plus those of the positions outside of the image that are read from it.
template <class Acc>
__global__ void __launch_bounds__(kThreads) gaussian_edges_kernel(TableParams p, int axis) {
  const int64_t extent = axis == 0 ? p.extent[0] : p.extent[1];
  const int radius = axis == 0 ? p.radius[0] : p.radius[1], size = 2 * radius + 1;
  const auto count = static_cast<unsigned>(edge_count(extent, radius));
  const int64_t edge = blockIdx.x % count, row = blockIdx.x / count;
  const int64_t position = extent <= 2 * radius + 2 || edge <= radius ? edge : edge + extent - 2 * radius - 2;
  const Acc* taps = static_cast<const Acc*>(axis == 0 ? p.tables.taps[0] : p.tables.taps[1]) + row * size;
  Acc* to =
      static_cast<Acc*>(axis == 0 ? p.tables.edges[0] : p.tables.edges[1]) + (row * count + edge) * size;
  for (int i = static_cast<int>(threadIdx.x); i < size; i += kThreads) {
    const int64_t from = position - radius + i;  // the neighbour whose gradient tap i multiplies
    double sum = static_cast<double>(taps[i]);
    for (int64_t distance = 1; distance <= radius; ++distance) {
      const int64_t before = from + distance, after = from - extent + 1 - distance;  // tap - radius
      if (before <= radius && before >= -radius && border_index(-distance, extent, p.border) == position)
        sum += static_cast<double>(taps[before + radius]);
      if (after <= radius && after >= -radius &&
          border_index(extent - 1 + distance, extent, p.border) == position)
        sum += static_cast<double>(taps[after + radius]);
    }
    to[i] = static_cast<Acc>(sum);
  }
}

bool has_edges(const GaussianTableRequest& request, int axis) {
  return request.adjoint && request.kernel_size[axis] > 1 &&
         (request.border == Border::kReflect || request.border == Border::kReplicate);
}

template <class Acc>
int launch_tables(const GaussianTableRequest& request, const TableParams& p, void* stream) {
  const unsigned rows = static_cast<unsigned>(sigma_rows(request.sigma));
  int code = launch(gaussian_taps_kernel<Acc>, dim3(rows, 2), dim3(kThreads), 0, stream, p);
  for (int axis = 0; code == 0 && axis < 2; ++axis) {
    if (!has_edges(request, axis)) continue;
    // A block for each edge of each row, all along x: y ends at 65535, and a row may be an image's.
    const int64_t blocks = rows * edge_count(p.extent[axis], p.radius[axis]);
    code = launch(gaussian_edges_kernel<Acc>, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, stream,
                  p, axis);
  }
  return code;
}

}  // namespace

int64_t place_gaussian_tables(const GaussianTableRequest& request, void* memory, GaussianTables* tables) {
  const int64_t element = request.image.dtype == DType::kFloat64 ? 8 : 4, rows = sigma_rows(request.sigma);
  int64_t used = 0;
  const auto take = [&](int64_t bytes) {
    void* const at = memory == nullptr ? nullptr : static_cast<char*>(memory) + used;
    used += (bytes + 255) / 256 * 256;
    return at;
  };
  GaussianTables placed{};
  for (int axis = 0; axis < 2; ++axis) {
    const int64_t size = request.kernel_size[axis];
    placed.taps[axis] = take(rows * size * element);
    if (request.derivative) placed.derivative[axis] = take(rows * size * element);
    if (has_edges(request, axis))
      placed.edges[axis] = take(rows * edge_count(request.image.size[2 + axis], size / 2) * size * element);
    placed.half[axis] = static_cast<double*>(take(rows * taps_scratch(size / 2) * 8));
  }
  if (tables != nullptr) *tables = placed;
  return used;
}

int launch_gaussian_tables(const GaussianTableRequest& request, const GaussianTables& tables, void* stream) {
  TableParams p{};
  p.tables = tables;
  p.sigma = request.sigma;
  p.border = request.border;
  p.fixed_point = request.image.dtype == DType::kUInt8;
  for (int axis = 0; axis < 2; ++axis) {
    p.sigma_row[axis] = request.sigma_row[axis];
    p.radius[axis] = static_cast<int>(request.kernel_size[axis] / 2);
    p.extent[axis] = request.image.size[2 + axis];
  }
  return request.image.dtype == DType::kFloat64 ? launch_tables<double>(request, p, stream)
                                                : launch_tables<float>(request, p, stream);
}

}  // namespace denoise_ext::cuda
