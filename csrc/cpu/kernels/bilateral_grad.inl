// Gradients of the joint bilateral filter: passes 1 and 2 of bilateral.h.

// Pass 1: writes G / D and B of one tile of the image.
template <class T>
void bilateral_normalise_task(const BilateralGradPlan& grad, int64_t task, void* scratch) {
  const BilateralPlan& plan = grad.image;
  const BilateralTile<T> tile = bilateral_tile<T>(plan, task, scratch);
  const int64_t channels = plan.params.input.size[1], row = plan.row_elements;
  const Tensor4 &output = plan.params.output, &grad_output = grad.params.grad_output;
  // A 16-bit output is too coarse: A is the small difference between a neighbour and the mean.
  const bool recompute = output.dtype == DType::kBFloat16 || output.dtype == DType::kFloat16;
  T* weights = tile.rest;
  T* totals = weights + kTapChunk * kBilateralBlock<T>;
  T* means = totals + row;  // [channel][row]
  T* scaled = means + channels * row;
  T* sums = scaled + row;
  pack_tile(plan, tile, recompute);
  for (int64_t r = 0; r < tile.rows; ++r) {
    const int64_t y = tile.y0 + r;
    bilateral_row(plan, tile, r, recompute ? channels : 0, weights, totals, means);
    for (int64_t i = 0; i < row; ++i) sums[i] = 0;
    for (int64_t c = 0; c < channels; ++c) {
      RowWindow window{output.size[3],   Border::kConstant, tile.x0, tile.cols, 1,
                       output.stride[3], output.stride[1]};
      T* mean = means + c * row;
      if (!recompute) pack_image_row(output, tile.n, c, y, window, mean);
      window.pixel_stride = grad_output.stride[3];
      pack_image_row(grad_output, tile.n, c, y, window, scaled);
      for (int64_t i = 0; i < tile.cols; ++i) {
        scaled[i] /= totals[i];
        sums[i] += scaled[i] * mean[i];
      }
      store_image_row(grad.scaled, 0, c, y, tile.x0, scaled, tile.cols);
    }
    store_image_row(grad.scaled, 0, channels, y, tile.x0, sums, tile.cols);
  }
}

// What pass 2 collects at one vector of positions.
template <class T>
struct BilateralSums {
  T* input;     // [channel][lanes]: gradient of the input
  T* guidance;  // [guidance channel][lanes]: gradient of the guidance over -2 color_scale
  Vec<T> color{}, y{}, x{};
};

// Everything one neighbour adds to the sums of a vector of positions. The pointers are those of the
// vector's first position in the first plane of each kind.
template <class T, bool kL1>
DENOISE_EXT_INLINE void add_neighbour(const BilateralGradPlan& grad, const BilateralTap& tap,
                                      const T* guidance, const T* input, const T* scaled, T log_space,
                                      Vec<T> scale, BilateralSums<T>& sums) {
  const BilateralPlan& plan = grad.enlarged;
  const int64_t plane = plan.plane_elements(), offset = tap.offset;
  const int64_t guides = plan.params.guidance.size[1], channels = plan.params.input.size[1];
  const Vec<T> exponent = color_exponent<T, 0, kL1>(guidance, offset, plane, guides, scale);
  const Vec<T> weight = exp<T>(log_space - exponent);
  // A(z -> t) and A(t -> z)
  Vec<T> outward = -load(scaled + channels * plane), inward = -load(scaled + channels * plane + offset);
  for (int64_t c = 0; c < channels; ++c) {
    const Vec<T> neighbour = load(scaled + c * plane + offset);
    outward += load(scaled + c * plane) * load(input + c * plane + offset);
    inward += neighbour * load(input + c * plane);
    if (sums.input != nullptr) {
      T* sum = sums.input + c * kLanes<T>;
      store(sum, load(sum) + weight * neighbour);
    }
  }
  outward *= weight;
  if (sums.guidance != nullptr) {
    Vec<T> factor = outward + inward * weight;
    if constexpr (kL1) {
      Vec<T> distance{};
      for (int64_t c = 0; c < guides; ++c)
        distance += absolute<T>(load(guidance + c * plane + offset) - load(guidance + c * plane));
      factor *= distance * scale;
    }
    for (int64_t c = 0; c < guides; ++c) {
      const Vec<T> difference = load(guidance + c * plane) - load(guidance + c * plane + offset);
      T* sum = sums.guidance + c * kLanes<T>;
      const Vec<T> zero{};
      const Vec<T> term = kL1 ? (difference > zero ? factor : (difference < zero ? -factor : zero))
                              : factor * (difference * scale);
      store(sum, load(sum) + term);
    }
  }
  sums.color += outward * exponent;
  sums.y += outward * static_cast<T>(tap.dy * tap.dy);
  sums.x += outward * static_cast<T>(tap.dx * tap.dx);
}

template <class T>
double sum_lanes(Vec<T> values) {
  double sum = 0;
  for (int i = 0; i < kLanes<T>; ++i) sum += static_cast<double>(values[i]);
  return sum;
}

// Pass 2 for row r of a tile of the enlarged image. rows: [C][row_elements] and [Cg][row_elements] of
// results; totals: the tile's three sums for the sigmas.
template <class T, bool kL1>
void bilateral_grad_row(const BilateralGradPlan& grad, const BilateralTile<T>& tile, const T* scaled,
                        int64_t r, T* lanes, T* rows, double* totals) {
  const BilateralPlan& plan = grad.enlarged;
  const BilateralParams& params = plan.params;
  const int64_t channels = params.input.size[1], guides = params.guidance.size[1], row = plan.row_elements;
  const int64_t tap_count = plan.taps.size();
  const T* log_space =
      static_cast<const T*>(plan.log_space) + (params.sigma_space.size == 2 ? 0 : tile.n * tap_count);
  const T scale = static_cast<const T*>(plan.color_scale)[params.sigma_color.size == 1 ? 0 : tile.n];
  for (int64_t x = 0; x < tile.cols; x += kLanes<T>) {
    const int64_t centre = (r + plan.radius[0]) * plan.packed_cols + plan.radius[1] + x;
    BilateralSums<T> sums{};
    sums.input = grad.grad_input != nullptr ? lanes : nullptr;
    sums.guidance = grad.grad_guidance != nullptr ? lanes + channels * kLanes<T> : nullptr;
    for (int64_t i = 0; i < (channels + guides) * kLanes<T>; ++i) lanes[i] = 0;
    for (int64_t t = 0; t < tap_count; ++t)
      add_neighbour<T, kL1>(grad, plan.taps[t], tile.guidance + centre, tile.input + centre, scaled + centre,
                            log_space[t], broadcast<T>(scale), sums);
    for (int64_t c = 0; c < channels; ++c) store(rows + c * row + x, load(lanes + c * kLanes<T>));
    for (int64_t c = channels; c < channels + guides; ++c)
      store(rows + c * row + x, load(lanes + c * kLanes<T>) * (T(-2) * scale));
    totals[0] += sum_lanes<T>(sums.color);
    totals[1] += sum_lanes<T>(sums.y);
    totals[2] += sum_lanes<T>(sums.x);
  }
}

// Copies one row of results into [plane][height][width] of the enlarged image.
template <class T>
void store_enlarged(const BilateralPlan& plan, const BilateralTile<T>& tile, int64_t r, int64_t planes,
                    const T* rows, void* to) {
  if (to == nullptr) return;
  const int64_t y = tile.y0 - plan.origin[0] + r, x = tile.x0 - plan.origin[1];
  for (int64_t c = 0; c < planes; ++c)
    __builtin_memcpy(static_cast<T*>(to) + (c * plan.extent[0] + y) * plan.extent[1] + x,
                     rows + c * plan.row_elements, static_cast<size_t>(tile.cols) * sizeof(T));
}

template <class T>
void bilateral_grad_task(const BilateralGradPlan& grad, int64_t task, void* scratch) {
  const BilateralPlan& plan = grad.enlarged;
  const BilateralTile<T> tile = bilateral_tile<T>(plan, task, scratch);
  const int64_t channels = plan.params.input.size[1], guides = plan.params.guidance.size[1];
  T* scaled = tile.rest - (channels + 1) * plan.plane_elements();  // the last planes
  T* lanes = tile.rest;
  T* rows = lanes + (channels + guides) * kLanes<T>;
  double* totals = grad.partial_sums + 3 * task;
  pack_tile(plan, tile, true);
  pack_planes(plan, tile, grad.scaled, 0, channels + 1, Border::kConstant, scaled);
  totals[0] = totals[1] = totals[2] = 0;
  const bool l1 = plan.params.distance == ColorDistance::kL1 && guides > 1;
  for (int64_t r = 0; r < tile.rows; ++r) {
    if (l1) {
      bilateral_grad_row<T, true>(grad, tile, scaled, r, lanes, rows, totals);
    } else {
      bilateral_grad_row<T, false>(grad, tile, scaled, r, lanes, rows, totals);
    }
    store_enlarged(plan, tile, r, channels, rows, grad.grad_input);
    store_enlarged(plan, tile, r, guides, rows + channels * plan.row_elements, grad.grad_guidance);
  }
}
