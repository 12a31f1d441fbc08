// Normalisation over the channels of a pixel, and over the pixels of a group of channels (see params/norm.h).
// Each tile is copied into the first-level cache, changed there and stored.

template <class T>
DENOISE_EXT_INLINE void activate_tile(const NormParams& params, T* values, int64_t count) {
  if (params.activation == Activation::kNone) return;
  if (is_long(params.activation)) return activate_long<T>(params.activation, values, count);
  const T slope = static_cast<T>(params.negative_slope);
  for (int64_t i = 0; i < count; i += kLanes<T>)
    store(values + i, activate_short<T>(load(values + i), params.activation, slope, nullptr));
}

template <class T>
DENOISE_EXT_INLINE void store_tile(const Tensor4& output, const OutputSpan& at, int64_t width,
                                   const T* tile) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (output.dtype == DType::kBFloat16) return store_span<BFloat16, T>(output, at, width, tile);
    if (output.dtype == DType::kFloat16) return store_span<Float16, T>(output, at, width, tile);
  }
  store_span<T, T>(output, at, width, tile);
}

// ---- over the channels of a pixel ------------------------------------------------------------------

// `count` pixels, at most as many as a vector has lanes, [pixel][width], in place. A vector holds one value
// of each pixel where the sums over channels are added up.
template <class T>
DENOISE_EXT_INLINE void layer_norm_tile(const LayerNormPlan& plan, int64_t count, T* tile) {
  const int64_t channels = plan.params.input.size[1], width = plan.width;
  const T *weight = static_cast<const T*>(plan.weight), *bias = static_cast<const T*>(plan.bias);
  T mean[kLanes<T>], scale[kLanes<T>];  // of each pixel
  Vec<T> rows[kLanes<T>] = {};
  for (int64_t i = 0; i < count; ++i) {
    T* pixel = tile + i * width;
    for (int64_t c = channels; c < width; ++c) pixel[c] = 0;
    for (int64_t c = 0; c < width; c += kLanes<T>) rows[i] += load(pixel + c);
  }
  store(mean, sum_lanes<T>(rows) / static_cast<T>(channels));
  for (int64_t i = 0; i < count; ++i) {
    T* pixel = tile + i * width;
    const Vec<T> center = broadcast<T>(mean[i]);
    for (int64_t c = channels; c < width; ++c) pixel[c] = mean[i];
    Vec<T> squares{};
    for (int64_t c = 0; c < width; c += kLanes<T>) {
      const Vec<T> x = load(pixel + c) - center;
      squares += x * x;
    }
    rows[i] = squares;
  }
  const Vec<T> variance = sum_lanes<T>(rows) / static_cast<T>(channels);
  store(scale, T(1) / root(variance + static_cast<T>(plan.params.eps)));
  for (int64_t i = 0; i < count; ++i) {
    T* pixel = tile + i * width;
    const Vec<T> center = broadcast<T>(plan.centred ? mean[i] : T(0)), factor = broadcast<T>(scale[i]);
    for (int64_t c = 0; c < width; c += kLanes<T>)
      store(pixel + c, (load(pixel + c) - center) * factor * load(weight + c) + load(bias + c));
  }
}

// Pixels from `from` on, `step` elements apart, and the results to `to`, as layer_norm_tile does it, but
// without a copy. The channels are one vector or more: the last one ends with the last channel, and may share
// some with the vector before it.
template <class T>
DENOISE_EXT_INLINE void layer_norm_direct(const LayerNormPlan& plan, int64_t count, const T* from,
                                          int64_t step, T* to, int64_t to_step) {
  const int64_t channels = plan.params.input.size[1];
  const int64_t whole = channels - channels % kLanes<T>, last = channels - kLanes<T>;
  const T *weight = static_cast<const T*>(plan.weight), *bias = static_cast<const T*>(plan.bias);
  Vec<T> places{};
  for (int i = 0; i < kLanes<T>; ++i) places[i] = static_cast<T>(i);
  // The channels that the last vector alone has.
  const auto own = places >= static_cast<T>(kLanes<T> - channels % kLanes<T>);
  T mean[kLanes<T>], scale[kLanes<T>];  // of each pixel
  Vec<T> rows[kLanes<T>];
  for (int64_t i = 0; i < count; ++i) {
    const T *pixel = from + i * step, *later = pixel + kLanes<T> * step;
    Vec<T> sum = own ? load(pixel + last) : Vec<T>{};
    for (int64_t c = 0; c < whole; c += kLanes<T>) {
      sum += load(pixel + c);
      __builtin_prefetch(later + c);
    }
    rows[i] = sum;
  }
  for (int64_t i = count; i < kLanes<T>; ++i) rows[i] = Vec<T>{};
  store(mean, sum_lanes<T>(rows) / static_cast<T>(channels));
  for (int64_t i = 0; i < count; ++i) {
    const T* pixel = from + i * step;
    const Vec<T> center = broadcast<T>(mean[i]), x = load(pixel + last) - center;
    Vec<T> squares = own ? x * x : Vec<T>{};
    for (int64_t c = 0; c < whole; c += kLanes<T>) {
      const Vec<T> difference = load(pixel + c) - center;
      squares += difference * difference;
      __builtin_prefetch(to + i * to_step + c, 1);
    }
    rows[i] = squares;
  }
  const Vec<T> variance = sum_lanes<T>(rows) / static_cast<T>(channels);
  store(scale, T(1) / root(variance + static_cast<T>(plan.params.eps)));
  for (int64_t i = 0; i < count; ++i) {
    const T* pixel = from + i * step;
    T* result = to + i * to_step;
    const Vec<T> center = broadcast<T>(plan.centred ? mean[i] : T(0)), factor = broadcast<T>(scale[i]);
    const Vec<T> x = load(pixel + last);  // before it may be overwritten
    for (int64_t c = 0; c < whole; c += kLanes<T>)
      store(result + c, (load(pixel + c) - center) * factor * load(weight + c) + load(bias + c));
    if (whole < channels)
      store(result + last, (x - center) * factor * load(weight + last) + load(bias + last));
  }
}

// Part of a row of pixels.
struct NormPiece {
  int64_t n, y, first, end;
};

// Whether layer_norm_direct can read and write them where they are.
template <class T>
DENOISE_EXT_INLINE bool is_direct(const NormParams& params) {
  return params.input.dtype == accumulation_type(params.input.dtype) && params.output.stride[1] == 1 &&
         params.input.size[1] >= kLanes<T> && params.activation == Activation::kNone;
}

template <class T>
void layer_norm_pixels(const LayerNormPlan& plan, const NormPiece& at, T* tile) {
  const NormParams& params = plan.params;
  const int64_t channels = params.input.size[1], n = at.n, y = at.y, cols = at.end;
  if (is_direct<T>(params)) {
    const auto address = [&](const Tensor4& image, int64_t x) {
      return static_cast<T*>(image.data) + n * image.stride[0] + y * image.stride[2] + x * image.stride[3];
    };
    for (int64_t x = at.first; x < cols; x += kLanes<T>)
      layer_norm_direct<T>(plan, cols - x < kLanes<T> ? cols - x : kLanes<T>, address(params.input, x),
                           params.input.stride[3], address(params.output, x), params.output.stride[3]);
    return;
  }
  for (int64_t x = at.first; x < cols; x += plan.tile_pixels) {
    const int64_t pixels = cols - x < plan.tile_pixels ? cols - x : plan.tile_pixels;
    pack<T>(params.input, {n, y, 1, x, pixels, 0, channels, 1}, {pixels, plan.width}, tile);
    for (int64_t i = 0; i < pixels; i += kLanes<T>)
      layer_norm_tile<T>(plan, pixels - i < kLanes<T> ? pixels - i : kLanes<T>, tile + i * plan.width);
    activate_tile<T>(params, tile, pixels * plan.width);
    store_tile<T>(params.output, {n, 0, y, x, 1, pixels, channels}, plan.width, tile);
  }
}

// The same where pixels lie side by side, or nothing does: [channel][kNormLine].
template <class T>
void layer_norm_lines(const LayerNormPlan& plan, const NormPiece& at, T* tile) {
  const NormParams& params = plan.params;
  const int64_t channels = params.input.size[1], n = at.n, y = at.y, cols = at.end;
  const T *weight = static_cast<const T*>(plan.weight), *bias = static_cast<const T*>(plan.bias);
  for (int64_t x = at.first; x < cols; x += kNormLine) {
    const int64_t count = cols - x < kNormLine ? cols - x : kNormLine;
    T mean[kNormLine] = {}, scale[kNormLine] = {};
    for (int64_t c = 0; c < channels; ++c) {
      T* line = tile + c * kNormLine;
      read_line(params.input, {n, c, y, x, count}, line);
      for (int64_t i = count; i < kNormLine; ++i) line[i] = 0;
      for (int64_t i = 0; i < kNormLine; i += kLanes<T>) store(mean + i, load(mean + i) + load(line + i));
    }
    for (int64_t i = 0; i < kNormLine; i += kLanes<T>)
      store(mean + i, load(mean + i) / static_cast<T>(channels));
    for (int64_t c = 0; c < channels; ++c) {
      T* line = tile + c * kNormLine;
      for (int64_t i = 0; i < kNormLine; i += kLanes<T>) {
        const Vec<T> value = load(line + i) - load(mean + i);
        store(scale + i, load(scale + i) + value * value);
      }
    }
    for (int64_t i = 0; i < kNormLine; i += kLanes<T>)
      store(scale + i, T(1) / root(load(scale + i) / static_cast<T>(channels) + static_cast<T>(params.eps)));
    if (!plan.centred)
      for (T& each : mean) each = 0;
    for (int64_t c = 0; c < channels; ++c) {
      T* line = tile + c * kNormLine;
      for (int64_t i = 0; i < kNormLine; i += kLanes<T>)
        store(line + i, (load(line + i) - load(mean + i)) * load(scale + i) * weight[c] + bias[c]);
      activate_tile<T>(params, line, kNormLine);
      write_line(params.output, {n, c, y, x, count}, line);
    }
  }
}

template <class T>
void layer_norm_any(const LayerNormPlan& plan, const NormPiece& at, T* scratch) {
  plan.adjacent ? layer_norm_pixels<T>(plan, at, scratch) : layer_norm_lines<T>(plan, at, scratch);
}

void layer_norm_piece(const LayerNormPlan& plan, int64_t piece, void* scratch) {
  const int64_t rows = plan.params.input.size[2], cols = plan.params.input.size[3];
  const int64_t row = piece / plan.pieces_per_row, first = piece % plan.pieces_per_row * plan.piece_cols;
  const int64_t end = first + plan.piece_cols;
  const NormPiece at{row / rows, row % rows, first, end < cols ? end : cols};
  plan.params.input.dtype == DType::kFloat64 ? layer_norm_any(plan, at, static_cast<double*>(scratch))
                                             : layer_norm_any(plan, at, static_cast<float*>(scratch));
}

// ---- over the pixels of a group --------------------------------------------------------------------
// Sums are in double: of squares of float32 without any rounding that a mean far from zero could enlarge.
// Squares of doubles are rounded, so those are differences from the plan's centre.

template <class T>
DENOISE_EXT_INLINE Vec<double> load_as_double(const T* from) {
  using Some = VecOfCount<T, kLanes<double>>;
  const typename Some::type value = *reinterpret_cast<const typename Some::unaligned*>(from);
  return __builtin_convertvector(value, Vec<double>);
}

// Adds what `pixels` pixels have of kVectors vectors of channels, `pitch` elements apart.
template <class T, int kVectors>
DENOISE_EXT_INLINE void add_moments(const T* values, int64_t pitch, int64_t pixels, const double* center,
                                    double* sums, double* squares) {
  Vec<double> sum[kVectors] = {}, square[kVectors] = {};
  for (int64_t i = 0; i < pixels; ++i, values += pitch)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      Vec<double> x = load_as_double(values + v * kLanes<double>);
      if constexpr (sizeof(T) == sizeof(double)) x -= load(center + v * kLanes<double>);
      sum[v] += x;
      square[v] += x * x;
    }
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    double *const to = sums + v * kLanes<double>, *const to_square = squares + v * kLanes<double>;
    store(to, load(to) + sum[v]);
    store(to_square, load(to_square) + square[v]);
  }
}

// The rows of a strip.
struct NormRows {
  int64_t n, first, end;
};

DENOISE_EXT_INLINE NormRows rows_of(const GroupNormPlan& plan, int64_t strip) {
  const int64_t first = strip % plan.strips_per_image * plan.strip_rows, end = first + plan.strip_rows;
  const int64_t rows = plan.params.input.size[2];
  return {strip / plan.strips_per_image, first, end < rows ? end : rows};
}

template <class T>
void group_norm_pixel_sums(const GroupNormPlan& plan, const NormRows& rows, double* sums, T* tile) {
  constexpr int kVectors = 4, kWide = kVectors * kLanes<double>;
  const Tensor4& input = plan.params.input;
  const int64_t channels = input.size[1], cols = input.size[3];
  // Read where they are if whole vectors fit.
  const bool direct = input.dtype == accumulation_type(input.dtype) && channels == plan.width;
  const double* center = plan.center + rows.n * plan.width;
  for (int64_t y = rows.first; y < rows.end; ++y)
    for (int64_t x = 0; x < cols; x += plan.tile_pixels) {
      const int64_t pixels = cols - x < plan.tile_pixels ? cols - x : plan.tile_pixels;
      const T* from = tile;
      int64_t pitch = plan.width;
      if (direct) {
        from = static_cast<const T*>(input.data) + rows.n * input.stride[0] + y * input.stride[2] +
               x * input.stride[3];
        pitch = input.stride[3];
      } else {
        pack<T>(input, {rows.n, y, 1, x, pixels, 0, channels, 1}, {pixels, plan.width}, tile);
      }
      int64_t c = 0;
      for (; c + kWide <= plan.width; c += kWide)
        add_moments<T, kVectors>(from + c, pitch, pixels, center + c, sums + c, sums + plan.width + c);
      for (; c < plan.width; c += kLanes<double>)
        add_moments<T, 1>(from + c, pitch, pixels, center + c, sums + c, sums + plan.width + c);
    }
}

template <class T>
void group_norm_line_sums(const GroupNormPlan& plan, const NormRows& rows, double* sums, T* line) {
  const Tensor4& input = plan.params.input;
  const int64_t cols = input.size[3];
  for (int64_t c = 0; c < input.size[1]; ++c) {
    double sum[kNormLine] = {}, square[kNormLine] = {};  // added up at the end, in this order
    double center[kNormLine];
    for (double& each : center) each = plan.center[rows.n * plan.width + c];
    for (int64_t y = rows.first; y < rows.end; ++y)
      for (int64_t x = 0; x < cols; x += kNormLine) {
        const int64_t count = cols - x < kNormLine ? cols - x : kNormLine;
        read_line(input, {rows.n, c, y, x, count}, line);
        for (int64_t i = count; i < kNormLine; ++i) line[i] = static_cast<T>(center[i]);
        // A pixel of kNormLine channels.
        for (int64_t i = 0; i < kNormLine; i += 2 * kLanes<double>)
          add_moments<T, 2>(line + i, 0, 1, center + i, sum + i, square + i);
      }
    for (int64_t i = 0; i < kNormLine; ++i) {
      sums[c] += sum[i];
      sums[plan.width + c] += square[i];
    }
  }
}

template <class T>
void group_norm_any_sums(const GroupNormPlan& plan, const NormRows& rows, double* sums, T* scratch) {
  plan.adjacent ? group_norm_pixel_sums<T>(plan, rows, sums, scratch)
                : group_norm_line_sums<T>(plan, rows, sums, scratch);
}

void group_norm_sums(const GroupNormPlan& plan, int64_t strip, void* scratch) {
  double* sums = plan.partials + strip * 2 * plan.width;
  const NormRows rows = rows_of(plan, strip);
  plan.params.input.dtype == DType::kFloat64
      ? group_norm_any_sums(plan, rows, sums, static_cast<double*>(scratch))
      : group_norm_any_sums(plan, rows, sums, static_cast<float*>(scratch));
}

template <class T>
void group_norm_pixels(const GroupNormPlan& plan, const NormRows& rows, T* tile) {
  const NormParams& params = plan.params;
  const int64_t channels = params.input.size[1], cols = params.input.size[3], width = plan.width;
  const T* scale = static_cast<const T*>(plan.scale) + rows.n * width;
  const T* shift = static_cast<const T*>(plan.shift) + rows.n * width;
  for (int64_t y = rows.first; y < rows.end; ++y)
    for (int64_t x = 0; x < cols; x += plan.tile_pixels) {
      const int64_t pixels = cols - x < plan.tile_pixels ? cols - x : plan.tile_pixels;
      pack<T>(params.input, {rows.n, y, 1, x, pixels, 0, channels, 1}, {pixels, width}, tile);
      for (int64_t i = 0; i < pixels; ++i)
        for (int64_t c = 0; c < width; c += kLanes<T>)
          store(tile + i * width + c, load(tile + i * width + c) * load(scale + c) + load(shift + c));
      activate_tile<T>(params, tile, pixels * width);
      store_tile<T>(params.output, {rows.n, 0, y, x, 1, pixels, channels}, width, tile);
    }
}

template <class T>
void group_norm_lines(const GroupNormPlan& plan, const NormRows& rows, T* line) {
  const NormParams& params = plan.params;
  const int64_t cols = params.input.size[3];
  const T* scale = static_cast<const T*>(plan.scale) + rows.n * plan.width;
  const T* shift = static_cast<const T*>(plan.shift) + rows.n * plan.width;
  for (int64_t c = 0; c < params.input.size[1]; ++c)
    for (int64_t y = rows.first; y < rows.end; ++y)
      for (int64_t x = 0; x < cols; x += kNormLine) {
        const int64_t count = cols - x < kNormLine ? cols - x : kNormLine;
        read_line(params.input, {rows.n, c, y, x, count}, line);
        for (int64_t i = count; i < kNormLine; ++i) line[i] = 0;
        for (int64_t i = 0; i < kNormLine; i += kLanes<T>)
          store(line + i, load(line + i) * scale[c] + shift[c]);
        activate_tile<T>(params, line, kNormLine);
        write_line(params.output, {rows.n, c, y, x, count}, line);
      }
}

template <class T>
void group_norm_any(const GroupNormPlan& plan, const NormRows& rows, T* scratch) {
  plan.adjacent ? group_norm_pixels<T>(plan, rows, scratch) : group_norm_lines<T>(plan, rows, scratch);
}

void group_norm_strip(const GroupNormPlan& plan, int64_t strip, void* scratch) {
  const NormRows rows = rows_of(plan, strip);
  plan.params.input.dtype == DType::kFloat64 ? group_norm_any(plan, rows, static_cast<double*>(scratch))
                                             : group_norm_any(plan, rows, static_cast<float*>(scratch));
}
