// Joint bilateral filter of float sums and few channels: weights are used as soon as they are known, and
// never stored (see bilateral.h). The exponential is 2^x to a few 1e-6, or 1e-4 for uint8 results.
//
// Without a guidance of its own, the image is packed times s = sqrt(log2(e) / 2) / sigma_color: the
// exponent is then the tap's logarithm less the square of the distance, and the sums are divided by s at
// the end. That rounds each colour once, relative to itself, which moves the result by a rounding error of
// the colour: what a distance of many sigmas gains in error, its weight loses. A guidance beside the
// image keeps its values, because there the error would come in units of sigma_color.

// Vectors per block: the centre's channels, their sums, the exponents and the steps between them want
// 4 to 12 registers a vector.
template <int kCount>
constexpr int kFusedVectors = (kAccumulators >= 24 ? 4 : 2) / (kCount > 1 ? 2 : 1);

// Where channels are put in order by shuffles of two vectors; elsewhere the compiler finds what there is.
constexpr bool kShuffles = kVectorBytes >= 32;

// Magnitudes with which no sum of squares overflows, and below which a scaled image would lose digits.
constexpr float kFusedLargest = 0x1p60f, kFusedSmallest = 0x1p-60f;

// The magnitudes' bits are in the order of their values; NaN comes after infinity.
DENOISE_EXT_INLINE int32_t magnitude_of(float value) {
  return __builtin_bit_cast(int32_t, value) & 0x7fffffff;
}

// to[c * plane + i] = line[i * kCount + c] * scale; returns the larger of `largest` and the magnitudes.
template <int kCount>
int32_t spread_channels(const float* __restrict line, int64_t pixels, float scale, float* __restrict to,
                        int64_t plane, int32_t largest) {
  int64_t i = 0;
  if constexpr (kCount > 1 && kShuffles) {
    Vec<int32_t> largest_lanes{};
    for (; i + kLanes<float> <= pixels; i += kLanes<float>) {
      Vec<float> channels[kCount];
      deinterleave_channels(line + i * kCount, channels);
#pragma GCC unroll 4
      for (int c = 0; c < kCount; ++c) {
        channels[c] *= scale;
        store(to + c * plane + i, channels[c]);
        const Vec<int32_t> magnitudes = reinterpret_cast<Vec<int32_t>>(channels[c]) & 0x7fffffff;
        largest_lanes = magnitudes > largest_lanes ? magnitudes : largest_lanes;
      }
    }
    for (int lane = 0; lane < kLanes<float>; ++lane)
      largest = largest_lanes[lane] > largest ? largest_lanes[lane] : largest;
  }
  for (; i < pixels; ++i) {
#pragma GCC unroll 4
    for (int c = 0; c < kCount; ++c) {
      const float value = line[i * kCount + c] * scale;
      to[c * plane + i] = value;
      largest = magnitude_of(value) > largest ? magnitude_of(value) : largest;
    }
  }
  return largest;
}

// Whether a row's channels lie side by side, so that they can be read or written together.
template <int kCount>
bool interleaved(const Tensor4& image) {
  return kCount > 1 && image.stride[1] == 1 && image.stride[3] == kCount;
}

// The part of an image's row that a window covers, where it lies inside and is what would be packed; or
// nullptr.
inline const float* packed_already(const Tensor4& image, int64_t n, int64_t channel, int64_t y,
                                   const RowWindow& window) {
  const bool dense = image.dtype == DType::kFloat32 && window.pixel_stride == window.channels;
  const bool inside =
      y >= 0 && y < image.size[2] && window.first >= 0 && window.first + window.pixels <= window.width;
  if (!dense || !inside) return nullptr;
  return static_cast<const float*>(image.data) + n * image.stride[0] + channel * image.stride[1] +
         y * image.stride[2] + window.first * image.stride[3];
}

// Packs a run of one row of kCount channels times `scale` into kCount planes, all channels at once where
// window.channels is kCount, through line[kCount * window.pixels] unless they lie as needed; returns the
// larger of `largest` and the magnitudes.
template <int kCount>
int32_t pack_run(const Tensor4& image, int64_t n, int64_t y, const RowWindow& window, float scale,
                 float* line, float* to, int64_t plane, int32_t largest) {
  const bool together = window.channels == kCount;
  for (int c = 0; c < (together ? 1 : kCount); ++c) {
    const float* from = packed_already(image, n, c, y, window);
    if (from == nullptr) pack_image_row(image, n, c, y, window, line);
    if (from == nullptr) from = line;
    largest = together ? spread_channels<kCount>(from, window.pixels, scale, to, plane, largest)
                       : spread_channels<1>(from, window.pixels, scale, to + c * plane, 0, largest);
  }
  return largest;
}

// Packs kCount channels of an image times `scale` as planes, as pack_planes does, by way of
// line[kCount * packed_cols]; returns the largest magnitude, or infinity where there is a NaN.
template <int kCount>
float pack_scaled(const BilateralPlan& plan, const BilateralTile<float>& tile, const Tensor4& image,
                  float scale, float* line, float* to) {
  const int64_t plane = plan.plane_elements(), cols = tile.cols + 2 * plan.radius[1];
  const int64_t first = tile.x0 - plan.radius[1];
  RowWindow window{image.size[3],   plan.params.border, 0, 0, interleaved<kCount>(image) ? kCount : 1,
                   image.stride[3], image.stride[1]};
  // Columns that lie inside the image come from there: [begin, end) of the tile's.
  const int64_t begin = first < 0 ? -first : 0;
  const int64_t end = image.size[3] - first < cols ? image.size[3] - first : cols;
  const int64_t runs[4] = {0, begin, end, cols};
  int32_t largest = 0;
  for (int64_t r = 0; r < tile.rows + 2 * plan.radius[0]; ++r) {
    float* row = to + r * plan.packed_cols;
    for (int run = 0; run < 3; ++run) {
      window.first = first + runs[run];
      window.pixels = runs[run + 1] - runs[run];
      largest = pack_run<kCount>(image, tile.n, tile.y0 - plan.radius[0] + r, window, scale, line,
                                 row + runs[run], plane, largest);
    }
    // Blocks run past the last column: what they read there must be a number.
    for (int c = 0; c < kCount; ++c)
      __builtin_memset(row + c * plane + cols, 0,
                       static_cast<size_t>(plan.packed_cols - cols) * sizeof(float));
  }
  constexpr int32_t kInfinity = 0x7f800000;
  return __builtin_bit_cast(float, largest < kInfinity ? largest : kInfinity);
}

// Exponents of a block's neighbours in base 2: log2_space - (scaled colour distance)^2.
template <int kGuides, bool kScaled, bool kL1, int kVectors>
DENOISE_EXT_INLINE void fused_exponents(const float* neighbour, int64_t plane, float log2_space, float scale,
                                        const Vec<float> (&centre)[kGuides][kVectors],
                                        Vec<float> (&exponent)[kVectors]) {
  constexpr int kLane = kLanes<float>;
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) exponent[v] = kL1 ? Vec<float>{} : broadcast<float>(log2_space);
#pragma GCC unroll 4
  for (int c = 0; c < kGuides; ++c) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      Vec<float> difference = load(neighbour + c * plane + v * kLane) - centre[c][v];
      if constexpr (kL1) {
        exponent[v] = c == 0 ? absolute<float>(difference) : exponent[v] + absolute<float>(difference);
      } else {
        if constexpr (!kScaled) difference *= scale;
        exponent[v] -= difference * difference;
      }
    }
  }
  if constexpr (kL1) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      if constexpr (!kScaled) exponent[v] *= scale;
      exponent[v] = log2_space - exponent[v] * exponent[v];
    }
  }
}

// The weighted means of one block of a row: means[c * row + lane]. The pointers are those of the block's
// first pixel in the first plane of each kind.
template <int kGuides, int kChannels, bool kJoint, bool kL1, int kDegree>
void fused_block(const BilateralPlan& plan, const float* guidance, const float* input,
                 const float* log2_space, float scale, float* means) {
  if constexpr (!kJoint) input = guidance;  // one pointer: the compiler then loads once
  constexpr int kVectors = kFusedVectors<(kGuides > kChannels ? kGuides : kChannels)>, kLane = kLanes<float>;
  const int64_t plane = plan.plane_elements(), taps = static_cast<int64_t>(plan.taps.size());
  Vec<float> centre[kGuides][kVectors], sums[kChannels][kVectors], total[kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 4
    for (int c = 0; c < kGuides; ++c) centre[c][v] = load(guidance + c * plane + v * kLane);
#pragma GCC unroll 4
    for (int c = 0; c < kChannels; ++c) sums[c][v] = load(input + c * plane + v * kLane);
    total[v] = broadcast<float>(1.0f);
  }
  for (int64_t t = 1; t < taps; ++t) {  // tap 0 is the centre, whose weight is 1
    const int64_t offset = plan.taps[t].offset;
    Vec<float> weight[kVectors];
    fused_exponents<kGuides, !kJoint, kL1, kVectors>(guidance + offset, plane, log2_space[t], scale, centre,
                                                     weight);
    exp2_of<kDegree, kVectors>(weight);
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) total[v] += weight[v];
#pragma GCC unroll 4
    for (int c = 0; c < kChannels; ++c) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v)
        sums[c][v] += weight[v] * load(input + offset + c * plane + v * kLane);
    }
  }
  const float unscale = kJoint ? 1.0f : 1.0f / scale;
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    const Vec<float> factor = unscale / total[v];
#pragma GCC unroll 4
    for (int c = 0; c < kChannels; ++c) store(means + c * plan.row_elements + v * kLane, sums[c][v] * factor);
  }
}

// Writes a row of the tile: means[c][row_elements], by way of `line` where channels lie side by side.
template <int kChannels>
void store_means(const BilateralPlan& plan, const BilateralTile<float>& tile, int64_t y, const float* means,
                 float* __restrict line) {
  const Tensor4& output = plan.params.output;
  if (!interleaved<kChannels>(output)) {
    for (int c = 0; c < kChannels; ++c)
      store_image_row(output, tile.n, c, y, tile.x0, means + c * plan.row_elements, tile.cols);
    return;
  }
  const bool in_place = output.dtype == DType::kFloat32;
  if (in_place)
    line = static_cast<float*>(output.data) + tile.n * output.stride[0] + y * output.stride[2] +
           tile.x0 * kChannels;
  int64_t i = 0;
  if constexpr (kChannels > 1 && kShuffles) {
    for (; i + kLanes<float> <= tile.cols; i += kLanes<float>) {
      Vec<float> channels[kChannels];
#pragma GCC unroll 4
      for (int c = 0; c < kChannels; ++c) channels[c] = load(means + c * plan.row_elements + i);
      interleave_channels(channels, line + i * kChannels);
    }
  }
  for (; i < tile.cols; ++i) {
#pragma GCC unroll 4
    for (int c = 0; c < kChannels; ++c) line[i * kChannels + c] = means[c * plan.row_elements + i];
  }
  if (in_place) return;
  // Seen as one channel of kChannels times as many pixels.
  Tensor4 flat = output;
  flat.stride[3] = 1;
  store_image_row(flat, tile.n, 0, y, tile.x0 * kChannels, line, tile.cols * kChannels);
}

template <int kGuides, int kChannels, bool kJoint, bool kL1, int kDegree>
void fused_task(const BilateralPlan& plan, int64_t task, void* scratch) {
  const BilateralTile<float> tile = bilateral_tile<float>(plan, task, scratch);
  const BilateralParams& params = plan.params;
  const float scale = plan.log2_color_scale[params.sigma_color.size == 1 ? 0 : tile.n];
  const int64_t tap_count = static_cast<int64_t>(plan.taps.size());
  const float* log2_space = plan.log2_space + (params.sigma_space.size == 2 ? 0 : tile.n * tap_count);
  float* means = tile.rest;
  float* line = means + kChannels * plan.row_elements;
  const float largest =
      pack_scaled<kGuides>(plan, tile, params.guidance, kJoint ? 1.0f : scale, line, tile.guidance);
  bool usual = kJoint ? largest * scale <= kFusedLargest
                      : largest == 0 || (largest <= kFusedLargest && largest >= kFusedSmallest);
  if (kJoint && usual)
    usual = pack_scaled<kChannels>(plan, tile, params.input, 1.0f, line, tile.input) <= kFusedLargest;
  if (!usual) return bilateral_task<float>(plan, task, scratch);
  constexpr int64_t kBlock = kFusedVectors<(kGuides > kChannels ? kGuides : kChannels)> * kLanes<float>;
  for (int64_t r = 0; r < tile.rows; ++r) {
    const int64_t centre = (r + plan.radius[0]) * plan.packed_cols + plan.radius[1];
    for (int64_t x = 0; x < tile.cols; x += kBlock)
      fused_block<kGuides, kChannels, kJoint, kL1, kDegree>(
          plan, tile.guidance + centre + x, tile.input + centre + x, log2_space, scale, means + x);
    store_means<kChannels>(plan, tile, tile.y0 + r, means, line);
  }
}

template <int kChannels, int kDegree>
void fused_task_plain(const BilateralPlan& plan, int64_t task, void* scratch) {
  if (kChannels > 1 && plan.params.distance == ColorDistance::kL1)
    return fused_task<kChannels, kChannels, false, true, kDegree>(plan, task, scratch);
  fused_task<kChannels, kChannels, false, false, kDegree>(plan, task, scratch);
}

template <int kGuides>
void fused_task_joint(const BilateralPlan& plan, int64_t task, void* scratch) {
  constexpr bool kL1 = kGuides > 1;  // of one channel both distances are the same
  const bool l1 = kL1 && plan.params.distance == ColorDistance::kL1, gray = plan.params.input.size[1] == 1;
  if (l1 && gray) return fused_task<kGuides, 1, true, kL1, 4>(plan, task, scratch);
  if (l1) return fused_task<kGuides, 3, true, kL1, 4>(plan, task, scratch);
  if (gray) return fused_task<kGuides, 1, true, false, 4>(plan, task, scratch);
  fused_task<kGuides, 3, true, false, 4>(plan, task, scratch);
}

// A tile of a plan of 1, 3 or 4 channels; with a guidance of its own, 1 or 3 of each.
void bilateral_fused_task(const BilateralPlan& plan, int64_t task, void* scratch) {
  const int64_t guides = plan.params.guidance.size[1];
  const bool coarse = plan.params.input.dtype == DType::kUInt8;
  if (plan.joint()) {
    if (guides == 1) return fused_task_joint<1>(plan, task, scratch);
    return fused_task_joint<3>(plan, task, scratch);
  }
  if (guides == 1)
    return coarse ? fused_task_plain<1, 3>(plan, task, scratch) : fused_task_plain<1, 4>(plan, task, scratch);
  if (guides == 3)
    return coarse ? fused_task_plain<3, 3>(plan, task, scratch) : fused_task_plain<3, 4>(plan, task, scratch);
  coarse ? fused_task_plain<4, 3>(plan, task, scratch) : fused_task_plain<4, 4>(plan, task, scratch);
}
