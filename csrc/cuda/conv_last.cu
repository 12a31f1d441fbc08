// 3x3 convolution of many channels to 1 to 4, stride 1, channels innermost: bound by reading the input,
// which happens 16 bytes at a time and nearly once.
//
// On the tensor cores the roles are: pixels are the rows of the product, the K outputs of the 3 taps of a
// kernel row its columns. The sums over kernel rows grow in registers while a warp walks down a strip;
// what is left is to add 3 neighbouring pixels' columns, through a few KiB of shared memory.
#include "common.cuh"
#include "conv_conditions.h"
#include "conv_last.h"
#include "conv_variants.h"
#include "primitives.cuh"
#include "vectors.cuh"

namespace denoise_ext::cuda {
namespace {

// ---- 16-bit elements: tensor cores ----

constexpr int kTensorThreads = ConvLastTensor::kWarps * 32, kStrip = ConvLastTensor::kStrip;

// Weight (k, c, u, v) where column `column` of kernel row u is 3 taps v by K outputs k; 0 outside.
__device__ __forceinline__ uint32_t weight_bits(const ConvParams& p, int64_t c, int u, int column) {
  const int outputs = static_cast<int>(p.output.size[1]);
  if (c >= p.weight.size[1] || column >= 3 * outputs) return 0;
  return *element<uint16_t>(p.weight, column % outputs, c, u, column / outputs);
}

// fragments: [channel block][k-step 2][kernel row 3][matrix][lane 32], the two registers of b of each
// lane. The channels are numbered so that a k-step's registers of a are two neighbouring words of the
// vector of 8 channels that a lane reads of a pixel.
template <int kMatrices>
__device__ __forceinline__ void load_fragments(const ConvParams& p, const ConvLastTensor& t,
                                               uint2* fragments) {
  const int count = t.channel_blocks * 2 * 3 * kMatrices * 32;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kTensorThreads) {
    const int lane = i % 32, matrix = i / 32 % kMatrices, u = i / (32 * kMatrices) % 3;
    const int step = i / (32 * kMatrices * 3);  // of all blocks
    const int64_t c = step / 2 * 32 + lane % 4 * 8 + step % 2 * 4;
    const int column = matrix * 8 + lane / 4;
    fragments[i] = uint2{weight_bits(p, c, u, column) | weight_bits(p, c + 1, u, column) << 16,
                         weight_bits(p, c + 2, u, column) | weight_bits(p, c + 3, u, column) << 16};
  }
}

// What a warp walks over: `rows` output rows of one strip. int: registers are what this kernel lacks.
struct Run {
  int64_t n;
  int y0, x0, rows;
};

// This lane's part of 32 pixels by 32 channels: pixels lane / 4 + 0, 8, 16, 24, one vector each.
template <class Storage>
__device__ __forceinline__ void load_pixels(const ConvParams& p, const Run& run, int row, int block,
                                            uint4 (&pixels)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int c = block * 32 + lane % 4 * 8, y = run.y0 - static_cast<int>(p.padding[0]) + row;
  const int x_first = run.x0 - static_cast<int>(p.padding[1]) + lane / 4;
  const bool inside = c < p.input.size[1] && y >= 0 && y < p.input.size[2];
  const Storage* const first = element<Storage>(p.input, run.n, c, y, x_first);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int x = x_first + i * 8;
    pixels[i] = inside && x >= 0 && x < p.input.size[3]
                    ? *reinterpret_cast<const uint4*>(first + i * 8 * p.input.stride[3])
                    : uint4{0, 0, 0, 0};
  }
}

// sums[u][m][matrix]: 16 pixels by 8 columns each, for the output row that kernel row u of this input
// row belongs to.
template <class Storage, int kMatrices>
__device__ __forceinline__ void multiply_pixels(const uint4 (&pixels)[4], const uint2* fragments,
                                                float (&sums)[3][2][kMatrices][4]) {
  uint32_t a[2][2][4];  // [step][m]
#pragma unroll
  for (int m = 0; m < 2; ++m) {
    const uint4 low = pixels[2 * m], high = pixels[2 * m + 1];
    const uint32_t words[2][4] = {{low.x, high.x, low.y, high.y}, {low.z, high.z, low.w, high.w}};
#pragma unroll
    for (int step = 0; step < 2; ++step)
#pragma unroll
      for (int i = 0; i < 4; ++i) a[step][m][i] = words[step][i];
  }
#pragma unroll
  for (int step = 0; step < 2; ++step)
#pragma unroll
    for (int u = 0; u < 3; ++u)
#pragma unroll
      for (int matrix = 0; matrix < kMatrices; ++matrix) {
        const uint2 two = fragments[((step * 3 + u) * kMatrices + matrix) * 32];
        const uint32_t b[2] = {two.x, two.y};
#pragma unroll
        for (int m = 0; m < 2; ++m) mma_16_bit(sums[u][m][matrix], a[step][m], b, Storage{});
      }
}

// Writes one output row: output column i adds columns v * K + k of pixel i + v. buffer: [32][pitch]
template <class Storage, int kMatrices>
__device__ __forceinline__ void finish_row(const ConvParams& p, const Run& run, int row,
                                           const float (&sums)[2][kMatrices][4], float* buffer) {
  constexpr int kPitch = 8 * kMatrices + 2;
  const int lane = static_cast<int>(threadIdx.x) % 32, outputs = static_cast<int>(p.output.size[1]);
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int matrix = 0; matrix < kMatrices; ++matrix)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        *reinterpret_cast<float2*>(buffer + (m * 16 + half * 8 + lane / 4) * kPitch + matrix * 8 +
                                   lane % 4 * 2) =
            float2{sums[m][matrix][2 * half], sums[m][matrix][2 * half + 1]};
  __syncwarp();
  const int x = run.x0 + lane, y = run.y0 + row;
  if (lane < kStrip && x < p.output.size[3])
    for (int k = 0; k < outputs; ++k) {
      float sum = 0;
#pragma unroll
      for (int v = 0; v < 3; ++v) sum += buffer[(lane + v) * kPitch + v * outputs + k];
      *element<Storage>(p.output, run.n, k, y, x) =
          FromAcc<Storage>::convert(finish_output<Storage, float>(p, sum, run.n, k, y, x));
    }
  __syncwarp();
}

// Input rows y0 - padding .. + rows + 1; an output row is complete after its third input row. The next
// pixels are on their way while the ones before are multiplied.
template <class Storage, int kMatrices>
__device__ __forceinline__ void walk(const ConvParams& p, const ConvLastTensor& t, const Run& run,
                                     const uint2* fragments, float* buffer) {
  float sums[3][2][kMatrices][4] = {};
  uint4 next[4];
  load_pixels<Storage>(p, run, 0, 0, next);
  for (int row = 0; row < run.rows + 2; ++row) {
    for (int block = 0; block < t.channel_blocks; ++block) {
      uint4 pixels[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) pixels[i] = next[i];
      const bool last_block = block + 1 == t.channel_blocks;
      if (!last_block || row < run.rows + 1)
        load_pixels<Storage>(p, run, last_block ? row + 1 : row, last_block ? 0 : block + 1, next);
      multiply_pixels<Storage, kMatrices>(pixels, fragments + block * 2 * 3 * kMatrices * 32, sums);
    }
    if (row >= 2) finish_row<Storage, kMatrices>(p, run, row - 2, sums[2], buffer);
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int matrix = 0; matrix < kMatrices; ++matrix)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          sums[2][m][matrix][i] = sums[1][m][matrix][i];
          sums[1][m][matrix][i] = sums[0][m][matrix][i];
          sums[0][m][matrix][i] = 0;
        }
  }
}

// Warps share the rows of all strips evenly.
// Registers (kMatrices = 2): 48 sums, 32 for pixels now and next, 2 of b, about 30 for addresses.
template <class Storage, int kMatrices>
__global__ void __launch_bounds__(kTensorThreads, 4)
    conv_last_tensor_kernel(ConvParams p, ConvLastTensor t, int64_t rows_per_warp) {
  SharedArena arena;
  uint2* const fragments = arena.take<uint2>(static_cast<size_t>(t.channel_blocks) * 2 * 3 * kMatrices * 32);
  float* const buffers =
      arena.take<float>(ConvLastTensor::kWarps * 32 * static_cast<size_t>(8 * kMatrices + 2));
  load_fragments<kMatrices>(p, t, fragments);
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  float* const buffer = buffers + warp * 32 * (8 * kMatrices + 2);
  int64_t row = (static_cast<int64_t>(blockIdx.x) * ConvLastTensor::kWarps + warp) * rows_per_warp;
  const int64_t end = row + rows_per_warp < t.rows ? row + rows_per_warp : t.rows;
  while (row < end) {
    Run run;
    const int64_t strip = row / p.output.size[2], left = end - row;
    run.y0 = static_cast<int>(row % p.output.size[2]);
    run.x0 = static_cast<int>(strip % t.strips_x * kStrip);
    run.n = strip / t.strips_x;
    const int64_t in_strip = p.output.size[2] - run.y0;
    run.rows = static_cast<int>(in_strip < left ? in_strip : left);
    walk<Storage, kMatrices>(p, t, run, fragments + lane, buffer);
    row += run.rows;
  }
}

template <class Storage>
int launch_tensor(const ConvParams& p, const LaunchContext& context) {
  const ConvLastTensor t = conv_last_tensor(p);
  // All warps at once, four blocks to a multiprocessor; but at least 8 rows each, beside the 2 more that
  // every run reads.
  constexpr int64_t kFewestRows = 8, kWarps = ConvLastTensor::kWarps;
  const int64_t most = 4 * static_cast<int64_t>(context.limits.multiprocessors) * kWarps;
  const int64_t share = divide_up(t.rows, most);
  const int64_t rows_per_warp = share > kFewestRows ? share : kFewestRows;
  const dim3 grid(static_cast<unsigned>(divide_up(t.rows, rows_per_warp * kWarps)));
  const auto kernel =
      t.matrices == 1 ? conv_last_tensor_kernel<Storage, 1> : conv_last_tensor_kernel<Storage, 2>;
  return launch(kernel, grid, dim3(kTensorThreads), t.shared_bytes, context.stream, p, t, rows_per_warp);
}

// ---- float32: multiply-adds ----

constexpr int kFloatThreads = ConvLastFloat::kThreads, kCols = ConvLastFloat::kCols;
constexpr int kRows = ConvLastFloat::kRows, kThreadRows = ConvLastFloat::kThreadRows;
constexpr int kChannels = ConvLastFloat::kChannels, kPitch = ConvLastFloat::kPitch;
constexpr int kVectors = kChannels / 4;

// tile: [kRows + 2][kCols + 2][kPitch], zero outside the image and from channel C on;
// weights: [kVectors][3][3][K][4].
__device__ __forceinline__ void load_channels(const ConvParams& p, int64_t n, int64_t y0, int64_t x0,
                                              int64_t first, float* tile, float* weights) {
  constexpr int kPixels = (kRows + 2) * (kCols + 2);
  for (int i = static_cast<int>(threadIdx.x); i < kPixels * kVectors; i += kFloatThreads) {
    const int pixel = i / kVectors, vector = i % kVectors;
    const int64_t y = y0 - p.padding[0] + pixel / (kCols + 2), x = x0 - p.padding[1] + pixel % (kCols + 2);
    const int64_t c = first + vector * 4;
    const bool inside = c < p.input.size[1] && y >= 0 && y < p.input.size[2] && x >= 0 && x < p.input.size[3];
    cp_async16(tile + pixel * kPitch + vector * 4,
               inside ? element<float>(p.input, n, c, y, x) : p.input.data, inside);
  }
  cp_async_commit();
  const int outputs = static_cast<int>(p.output.size[1]);
  for (int i = static_cast<int>(threadIdx.x); i < kChannels * 9 * outputs; i += kFloatThreads) {
    const int k = i / 4 % outputs, tap = i / (4 * outputs) % 9;
    const int64_t c = first + i / (4 * outputs * 9) * 4 + i % 4;
    weights[i] = c < p.input.size[1] ? *element<float>(p.weight, k, c, tap / 3, tap % 3) : 0.0f;
  }
}

// One kernel column over kThreadRows rows of an output column, 4 channels. column: the first pixel.
__device__ __forceinline__ void multiply_column(const float* column, const float* weights, int outputs,
                                                float (&sums)[kThreadRows][kConvLastMaxChannels]) {
  float4 x[kThreadRows + 2];
#pragma unroll
  for (int i = 0; i < kThreadRows + 2; ++i)
    x[i] = *reinterpret_cast<const float4*>(column + i * (kCols + 2) * kPitch);
#pragma unroll
  for (int u = 0; u < 3; ++u)
#pragma unroll
    for (int k = 0; k < kConvLastMaxChannels; ++k) {
      if (k >= outputs) break;
      const float4 w = *reinterpret_cast<const float4*>(weights + (u * 3 * outputs + k) * 4);
#pragma unroll
      for (int r = 0; r < kThreadRows; ++r)
        sums[r][k] += w.x * x[r + u].x + w.y * x[r + u].y + w.z * x[r + u].z + w.w * x[r + u].w;
    }
}

// Registers: 24 for a column of pixels, 16 sums, 4 weights, about 30 more.
__global__ void __launch_bounds__(kFloatThreads, 4) conv_last_float_kernel(ConvParams p, ConvLastFloat t) {
  const int outputs = static_cast<int>(p.output.size[1]);
  SharedArena arena;
  float* const tile = arena.take<float>((kRows + 2) * (kCols + 2) * kPitch);
  float* const weights = arena.take<float>(9 * kChannels * static_cast<size_t>(outputs));
  const int64_t x0 = blockIdx.x % t.tiles_x * kCols, y0 = blockIdx.x / t.tiles_x % t.tiles_y * kRows;
  const int64_t n = blockIdx.x / t.tiles_x / t.tiles_y;
  const int col = static_cast<int>(threadIdx.x) % kCols;
  const int first_row = static_cast<int>(threadIdx.x) / kCols * kThreadRows;
  float sums[kThreadRows][kConvLastMaxChannels] = {};
  for (int64_t first = 0; first < p.input.size[1]; first += kChannels) {
    load_channels(p, n, y0, x0, first, tile, weights);
    cp_async_wait<0>();
    __syncthreads();
    for (int vector = 0; vector < kVectors; ++vector)
      for (int v = 0; v < 3; ++v)
        multiply_column(tile + (first_row * (kCols + 2) + col + v) * kPitch + vector * 4,
                        weights + (vector * 9 + v) * outputs * 4, outputs, sums);
    __syncthreads();
  }
  // Through the tile's memory, so that the long code of the last step stands in a loop; each thread
  // reads its own values only. [kThreadRows][kConvLastMaxChannels][kFloatThreads]
  float* const own = tile + threadIdx.x;
#pragma unroll
  for (int r = 0; r < kThreadRows; ++r)
#pragma unroll
    for (int k = 0; k < kConvLastMaxChannels; ++k)
      own[(r * kConvLastMaxChannels + k) * kFloatThreads] = sums[r][k];
  const int64_t x = x0 + col;
  if (x >= p.output.size[3]) return;
  for (int r = 0; r < kThreadRows && y0 + first_row + r < p.output.size[2]; ++r)
    for (int k = 0; k < outputs; ++k) {
      const int64_t y = y0 + first_row + r;
      const float sum = own[(r * kConvLastMaxChannels + k) * kFloatThreads];
      *element<float>(p.output, n, k, y, x) = finish_output<float, float>(p, sum, n, k, y, x);
    }
}

}  // namespace

int conv_last_launch(const ConvParams& p, const LaunchContext& context) {
  if (p.output.dtype == DType::kFloat16) return launch_tensor<Float16>(p, context);
  if (p.output.dtype == DType::kBFloat16) return launch_tensor<BFloat16>(p, context);
  const ConvLastFloat t = conv_last_float(p);
  const dim3 grid(static_cast<unsigned>(p.output.size[0] * t.tiles_x * t.tiles_y));
  return launch(conv_last_float_kernel, grid, dim3(kFloatThreads), t.shared_bytes, context.stream, p, t);
}

}  // namespace denoise_ext::cuda
