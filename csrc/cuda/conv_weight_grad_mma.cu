// The gradient of a 3x3 or 1x1 convolution's weight on tensor cores, fp16 and bf16, channels_last.
//
// grad_weight[k][c][tap] is a matrix product over pixels, for every tap: (k x pixels) (pixels x c). A
// block holds a 64 x 64 tile of (coarse k, fine c) for all taps in registers and walks over row segments
// of 64 pixels of its part of the image. A segment of both tensors is in shared memory (fine with the
// halo that the taps need), the next one is on its way (cp.async); both operands are read transposed by
// ldmatrix, and a tap is only another address. The mask of an activation's gradient comes in registers and
// is applied in shared memory, by the thread that asked for the element, before others see it. The bias'
// gradient is one product more, with a matrix of ones, in the blocks of the first fine channels.
//
// A warp has 32 coarse and 16 fine channels: of what it reads, two ldmatrix of coarse serve all taps, and one
// of fine four products. Registers: 9 taps x 2 x 2 matrices x 4 = 144 sums per thread, so one block of 3x3
// runs on a multiprocessor. Shared memory: 2 x (8192 + 25344) bytes.
#include <type_traits>

#include "conv_weight_grad.cuh"
#include "conv_weight_grad_variants.h"
#include "vectors.cuh"

namespace denoise_ext::cuda {
namespace {

constexpr int kCoarse = kWeightGradMmaCoarse;  // coarse channels per block: 2 warps of 32
constexpr int kFine = kWeightGradMmaFine;      // fine channels per block: 4 warps of 16
constexpr int kPixels = kWeightGradMmaPixels;  // of a row segment: 4 steps of 16
constexpr int kThreads = 256;
constexpr int kChunk = 8;                                     // elements in 16 bytes
constexpr int kEach = kPixels * kCoarse / kChunk / kThreads;  // vectors of coarse that a thread loads

// Chunks of a pixel, 128 bytes of either tensor, are permuted so that the 8 pixels that an ldmatrix reads
// lie in different banks.
__device__ __forceinline__ int chunk_offset(int pixel, int chunk) {
  static_assert(kCoarse == 8 * kChunk && kFine == 8 * kChunk);
  return (pixel * 8 + (chunk ^ (pixel & 7))) * kChunk;
}

struct Segment {  // coarse pixels (n, y, x0 .. x0 + kPixels - 1)
  int n, y, x0;
};

// The thread's vector number j of a segment's coarse tensor.
struct CoarseVector {
  int offset;  // in shared memory
  int k, x;
  bool valid;

  __device__ __forceinline__ CoarseVector(const ConvWeightGradParams& p, const Segment& at, int k0, int j) {
    const int i = static_cast<int>(threadIdx.x) + j * kThreads;
    const int chunk = i % (kCoarse / kChunk), pixel = i / (kCoarse / kChunk);
    offset = chunk_offset(pixel, chunk);
    k = k0 + chunk * kChunk;
    x = at.x0 + pixel;
    valid = x < p.coarse.size[3] && k < p.coarse.size[1];
  }
};

// Starts the copies of a segment; `mask` receives what apply_masks() needs, where there is a mask.
template <class Storage, int kSize>
__device__ __forceinline__ void load_segment(const ConvWeightGradParams& p, const Segment& at, int k0, int c0,
                                             Storage* coarse, Storage* fine, uint4 (&mask)[kEach]) {
  constexpr int kCols = kPixels + kSize - 1;
  const Tensor4& saved = p.coarse_mask.saved;
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const CoarseVector v(p, at, k0, j);
    cp_async16(coarse + v.offset, v.valid ? element<Storage>(p.coarse, at.n, v.k, at.y, v.x) : p.coarse.data,
               v.valid);
    if (saved.data != nullptr && v.valid)
      mask[j] = __ldg(reinterpret_cast<const uint4*>(element<Storage>(saved, at.n, v.k, at.y, v.x)));
  }
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < kSize * kCols * kFine / kChunk; i += kThreads) {
    const int chunk = i % (kFine / kChunk), pixel = i / (kFine / kChunk);  // pixel: of kSize rows
    const int c = c0 + chunk * kChunk;
    const int64_t y = at.y + pixel / kCols - p.padding[0], x = at.x0 + pixel % kCols - p.padding[1];
    const bool valid = y >= 0 && x >= 0 && y < p.fine.size[2] && x < p.fine.size[3] && c < p.fine.size[1];
    cp_async16(fine + chunk_offset(pixel, chunk),
               valid ? element<Storage>(p.fine, at.n, c, y, x) : p.fine.data, valid);
  }
  cp_async_commit();
}

// Masks the thread's own vectors of a segment, whose copies it has waited for; a barrier must follow.
template <class Storage>
__device__ __forceinline__ void apply_masks(const ConvWeightGradParams& p, const Segment& at, int k0,
                                            Storage* coarse, const uint4 (&mask)[kEach]) {
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const CoarseVector v(p, at, k0, j);
    if (!v.valid) continue;
    uint4* const vector = reinterpret_cast<uint4*>(coarse + v.offset);
    *vector = apply_mask<Storage>(*vector, mask[j], static_cast<float>(p.coarse_mask.slope));
  }
}

template <class Storage>
__device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (std::is_same_v<Storage, Float16>) {
    mma_m16n8k16_f16(c, a, b);
  } else {
    mma_m16n8k16_bf16(c, a, b);
  }
}

// A warp's sums: taps x 2 matrices of coarse x 2 of fine channels.
template <int kSize>
using WeightGradSums = float[kSize * kSize][2][2][4];

// All taps of one segment. bias_sums: two matrices whose columns are all the sums of `coarse`.
template <class Storage, int kSize>
__device__ __forceinline__ void multiply_segment(const Storage* coarse, const Storage* fine, bool with_bias,
                                                 WeightGradSums<kSize>& sums, float (&bias_sums)[2][4]) {
  constexpr int kCols = kPixels + kSize - 1;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int coarse_chunk = warp % 2 * 4, fine_chunk = warp / 2 * 2;
  // ldmatrix: lane 8 m + i addresses row i (a pixel) of matrix m.
  const int matrix = lane / 8, i = lane % 8;
#pragma unroll 1
  for (int first = 0; first < kPixels; first += 16) {
    // a: matrices (channels 0-7, pixels 0-7), (8-15, 0-7), (0-7, 8-15), (8-15, 8-15), transposed.
    uint32_t a[2][4];
#pragma unroll
    for (int m = 0; m < 2; ++m)
      ldmatrix_trans<4>(a[m],
                        coarse + chunk_offset(first + i + matrix / 2 * 8, coarse_chunk + 2 * m + matrix % 2));
    if (with_bias) {
      const uint32_t ones = pack_word({1.0f, 1.0f}, Storage{});
#pragma unroll
      for (int m = 0; m < 2; ++m) multiply<Storage>(bias_sums[m], a[m], {ones, ones});
    }
#pragma unroll
    for (int u = 0; u < kSize; ++u)
#pragma unroll
      for (int v = 0; v < kSize; ++v) {
        // b: matrices (pixels 0-7, channels 0-7), (8-15, 0-7), (0-7, 8-15), (8-15, 8-15), transposed.
        uint32_t b[4];
        ldmatrix_trans<4>(
            b, fine + chunk_offset(u * kCols + first + v + i + matrix % 2 * 8, fine_chunk + matrix / 2));
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          multiply<Storage>(sums[u * kSize + v][m][0], a[m], {b[0], b[1]});
          multiply<Storage>(sums[u * kSize + v][m][1], a[m], {b[2], b[3]});
        }
      }
  }
}

template <class Storage, int kSize>
__global__ void __launch_bounds__(kThreads, weight_grad_mma_resident(kSize))
    weight_grad_mma_kernel(ConvWeightGradParams p, float* partials, int parts) {
  constexpr int kCols = kPixels + kSize - 1;
  SharedArena arena;
  // Two stages each; selected by arithmetic, an array of pointers would live in local memory.
  Storage* const coarse = arena.take<Storage>(2 * kPixels * kCoarse);
  Storage* const fine = arena.take<Storage>(2 * kSize * kCols * kFine);
  const int fine_tiles = static_cast<int>((p.fine.size[1] + kFine - 1) / kFine);
  const int k0 = static_cast<int>(blockIdx.x) / fine_tiles * kCoarse;
  const int c0 = static_cast<int>(blockIdx.x) % fine_tiles * kFine;
  // 32 bits count 137 G pixels in segments of 64.
  const int rows = static_cast<int>(p.coarse.size[2]);
  const int per_row = static_cast<int>((p.coarse.size[3] + kPixels - 1) / kPixels);
  const int64_t segments = p.coarse.size[0] * rows * per_row;
  const int begin = static_cast<int>(segments * blockIdx.y / parts);
  const int end = static_cast<int>(segments * (blockIdx.y + 1) / parts);
  const auto segment = [&](int i) {
    return Segment{i / (per_row * rows), i / per_row % rows, i % per_row * kPixels};
  };
  const auto load = [&](int i, uint4(&mask)[kEach]) {
    const int stage = (i - begin) % 2;
    load_segment<Storage, kSize>(p, segment(i), k0, c0, coarse + stage * kPixels * kCoarse,
                                 fine + stage * kSize * kCols * kFine, mask);
  };

  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const bool with_bias = p.grad_bias != nullptr && c0 == 0 && warp / 2 == 0;
  const int64_t first_k = k0 + warp % 2 * 32, first_c = c0 + warp / 2 * 16;
  // Warps past the last channel only help to load.
  const bool active = first_k < p.coarse.size[1] && first_c < p.fine.size[1];
  WeightGradSums<kSize> sums = {};
  float bias_sums[2][4] = {};
  uint4 mask[kEach] = {}, next_mask[kEach] = {};
  if (begin < end) load(begin, mask);
  for (int i = begin; i < end; ++i) {
    if (i + 1 < end) {
      load(i + 1, next_mask);
      cp_async_wait<1>();
    } else {
      cp_async_wait<0>();
    }
    const int stage = (i - begin) % 2;
    Storage* const coarse_stage = coarse + stage * kPixels * kCoarse;
    if (p.coarse_mask.saved.data != nullptr) apply_masks<Storage>(p, segment(i), k0, coarse_stage, mask);
    __syncthreads();
    if (active)
      multiply_segment<Storage, kSize>(coarse_stage, fine + stage * kSize * kCols * kFine, with_bias, sums,
                                       bias_sums);
    __syncthreads();  // the next turn overwrites what this one read
#pragma unroll
    for (int j = 0; j < kEach; ++j) mask[j] = next_mask[j];
  }

  float* const partial = partials + blockIdx.y * partial_count(p);
  // Column 0 of the sums that all 8 columns are: lanes 4 g hold rows g and g + 8.
  if (with_bias && lane % 4 == 0) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t k = first_k + lane / 4 + i * 8;
      if (k < p.coarse.size[1]) partial[weight_count(p) + k] = bias_sums[i / 2][i % 2 * 2];
    }
  }
#pragma unroll
  for (int tap = 0; tap < kSize * kSize; ++tap)
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int tile = 0; tile < 2; ++tile)
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          const int64_t k = first_k + m * 16 + lane / 4 + r / 2 * 8;
          const int64_t c = first_c + tile * 8 + lane % 4 * 2 + r % 2;
          if (k < p.coarse.size[1] && c < p.fine.size[1])
            partial[(k * p.fine.size[1] + c) * (kSize * kSize) + tap] = sums[tap][m][tile][r];
        }
}

template <class Storage, int kSize>
int launch_size(const ConvWeightGradParams& params, const LaunchContext& context) {
  constexpr size_t kBytes = SharedArena::bytes<Storage>(2 * kPixels * kCoarse) +
                            SharedArena::bytes<Storage>(2 * kSize * (kPixels + kSize - 1) * kFine);
  const int parts = weight_grad_mma_parts(params, context.limits);
  float* partials = static_cast<float*>(context.workspace);
  const int code =
      launch(weight_grad_mma_kernel<Storage, kSize>,
             dim3(static_cast<unsigned>(weight_grad_mma_blocks(params)), static_cast<unsigned>(parts)),
             dim3(kThreads), kBytes, context.stream, params, partials, parts);
  return code != 0 ? code : sum_weight_parts<Storage, float>(params, partials, parts, context.stream);
}

}  // namespace

int weight_grad_mma_launch(const ConvWeightGradParams& params, const LaunchContext& context) {
  const bool wide = params.grad_weight.size[2] == 3;
  if (params.coarse.dtype == DType::kFloat16)
    return wide ? launch_size<Float16, 3>(params, context) : launch_size<Float16, 1>(params, context);
  return wide ? launch_size<BFloat16, 3>(params, context) : launch_size<BFloat16, 1>(params, context);
}

}  // namespace denoise_ext::cuda
