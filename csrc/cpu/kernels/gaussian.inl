// Separable Gaussian: one strip of rows of one tile of columns (see gaussian.h).

constexpr int kRowVectors = 4;
template <class T>
constexpr int kRowBlock = kRowVectors * kLanes<T>;

// Row and column sums run over elements [0, end), a multiple of kRowBlock<T>.

// to = sum over i of taps[i] * rows[i], for taps that equal their mirror image
template <class T>
void sum_rows_symmetric(const T* const* rows, const T* taps, int64_t radius, int64_t end, T* to) {
  for (int64_t e = 0; e < end; e += kRowBlock<T>) {
    Vec<T> acc[kRowVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kRowVectors; ++v) acc[v] = load(rows[radius] + e + v * kLanes<T>) * taps[radius];
    for (int64_t i = 0; i < radius; ++i) {
      const Vec<T> tap = broadcast<T>(taps[i]);
      const T *above = rows[i] + e, *below = rows[2 * radius - i] + e;
#pragma GCC unroll 4
      for (int v = 0; v < kRowVectors; ++v)
        acc[v] += tap * (load(above + v * kLanes<T>) + load(below + v * kLanes<T>));
    }
#pragma GCC unroll 4
    for (int v = 0; v < kRowVectors; ++v) store(to + e + v * kLanes<T>, acc[v]);
  }
}

template <class T>
void sum_rows(const T* const* rows, const T* taps, int64_t radius, int64_t end, T* to) {
  for (int64_t e = 0; e < end; e += kRowBlock<T>) {
    Vec<T> acc[kRowVectors] = {};
    for (int64_t i = 0; i <= 2 * radius; ++i) {
      const Vec<T> tap = broadcast<T>(taps[i]);
#pragma GCC unroll 4
      for (int v = 0; v < kRowVectors; ++v) acc[v] += tap * load(rows[i] + e + v * kLanes<T>);
    }
#pragma GCC unroll 4
    for (int v = 0; v < kRowVectors; ++v) store(to + e + v * kLanes<T>, acc[v]);
  }
}

// The same along a packed row: to[e] = sum over i of taps[i] * line[e + i * step]
template <class T>
void sum_columns_symmetric(const T* line, int64_t step, const T* taps, int64_t radius, int64_t end, T* to) {
  for (int64_t e = 0; e < end; e += kRowBlock<T>) {
    const T* centre = line + radius * step + e;
    Vec<T> acc[kRowVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kRowVectors; ++v) acc[v] = load(centre + v * kLanes<T>) * taps[radius];
    for (int64_t i = 0; i < radius; ++i) {
      const Vec<T> tap = broadcast<T>(taps[i]);
      const T *left = line + i * step + e, *right = line + (2 * radius - i) * step + e;
#pragma GCC unroll 4
      for (int v = 0; v < kRowVectors; ++v)
        acc[v] += tap * (load(left + v * kLanes<T>) + load(right + v * kLanes<T>));
    }
#pragma GCC unroll 4
    for (int v = 0; v < kRowVectors; ++v) store(to + e + v * kLanes<T>, acc[v]);
  }
}

// Taps that differ from column to column: taps[i * taps_stride + e]
template <class T>
void sum_columns(const T* line, int64_t step, const T* taps, int64_t taps_stride, int64_t radius, int64_t end,
                 T* to) {
  for (int64_t e = 0; e < end; e += kRowBlock<T>) {
    Vec<T> acc[kRowVectors] = {};
    for (int64_t i = 0; i <= 2 * radius; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < kRowVectors; ++v)
        acc[v] +=
            load(taps + i * taps_stride + e + v * kLanes<T>) * load(line + i * step + e + v * kLanes<T>);
    }
#pragma GCC unroll 4
    for (int v = 0; v < kRowVectors; ++v) store(to + e + v * kLanes<T>, acc[v]);
  }
}

template <class T>
struct GaussianTile {
  int64_t n, channel, channels;  // the image and the slice of its channels
  int64_t x0, pixels, y0, rows;
  int64_t elements;   // pixels * channels rounded up to kRowElements
  int64_t sigma_row;  // of this image
  // Scratch
  const T** rows_in_order;  // [2 * radius + 1]: the ring's rows, topmost first
  T* line;                  // [plan.line_elements]: an input row
  T* result;                // [plan.tile_elements]: an output row
  T* ring;                  // [2 * radius + 1][elements]: rows filtered horizontally
  T* second;                // sigma gradient: another ring; adjoint: [2 * radius + 1][elements] taps
};

template <class T>
GaussianTile<T> gaussian_tile(const GaussianPlan& plan, int64_t task, void* scratch) {
  GaussianTile<T> tile{};
  tile.x0 = task % plan.tiles * plan.tile_pixels;
  tile.y0 = task / plan.tiles % plan.strips * plan.strip_rows;
  tile.channel = task / (plan.tiles * plan.strips) % plan.slices * plan.channels;
  tile.n = task / (plan.tiles * plan.strips * plan.slices);
  const int64_t channels = plan.input.size[1] - tile.channel;
  const int64_t rows = plan.input.size[2] - tile.y0, pixels = plan.input.size[3] - tile.x0;
  tile.channels = channels < plan.channels ? channels : plan.channels;
  tile.rows = rows < plan.strip_rows ? rows : plan.strip_rows;
  tile.pixels = pixels < plan.tile_pixels ? pixels : plan.tile_pixels;
  tile.elements = (tile.pixels * tile.channels + kRowElements - 1) / kRowElements * kRowElements;
  tile.sigma_row = plan.sigma_rows == 1 ? 0 : tile.n;
  tile.rows_in_order = static_cast<const T**>(scratch);
  tile.line = reinterpret_cast<T*>(static_cast<char*>(scratch) + plan.row_table_bytes);
  tile.result = tile.line + plan.line_elements;
  tile.ring = tile.result + plan.tile_elements;
  tile.second = tile.ring + (2 * plan.radius[0] + 1) * plan.tile_elements;
  return tile;
}

// Taps of one axis for the tile's image.
template <class T>
const T* taps_of(const void* taps, int64_t radius, int64_t sigma_row) {
  return static_cast<const T*>(taps) + sigma_row * (2 * radius + 1);
}

template <class T>
const T* edge_taps_of(const GaussianPlan& plan, int axis, int64_t position, int64_t sigma_row) {
  if (plan.edge_taps[axis] == nullptr) return nullptr;
  const int64_t extent = plan.input.size[2 + axis], radius = plan.radius[axis];
  const int64_t row = edge_row(position, extent, radius);
  if (row < 0) return nullptr;
  return static_cast<const T*>(plan.edge_taps[axis]) +
         (sigma_row * edge_count(extent, radius) + row) * (2 * radius + 1);
}

// Fills tile.second with the taps of every column of a tile that has edge columns; false: it has none.
template <class T>
bool spread_edge_taps(const GaussianPlan& plan, const GaussianTile<T>& tile) {
  const int64_t radius = plan.radius[1];
  if (plan.edge_taps[1] == nullptr) return false;
  if (tile.x0 > radius && tile.x0 + tile.pixels < plan.input.size[3] - radius) return false;
  const T* common = taps_of<T>(plan.taps[1], radius, tile.sigma_row);
  for (int64_t x = 0; x < tile.pixels; ++x) {
    const T* own = edge_taps_of<T>(plan, 1, tile.x0 + x, tile.sigma_row);
    for (int64_t i = 0; i <= 2 * radius; ++i)
      for (int64_t c = 0; c < tile.channels; ++c)
        tile.second[i * tile.elements + x * tile.channels + c] = own != nullptr ? own[i] : common[i];
  }
  return true;
}

// Packs row y of `image` with `margin` more pixels on both sides into tile.line.
template <class T>
void pack_line(const Tensor4& image, const GaussianTile<T>& tile, Border border, int64_t margin, int64_t y) {
  const RowWindow window{image.size[3], border,          tile.x0 - margin, tile.pixels + 2 * margin,
                         tile.channels, image.stride[3], image.stride[1]};
  pack_image_row(image, tile.n, tile.channel, y, window, tile.line);
}

// tile.rows_in_order for output row y0 + r.
template <class T>
void order_ring(const GaussianTile<T>& tile, const T* ring, int64_t r, int64_t size) {
  int64_t slot = r % size;
  for (int64_t i = 0; i < size; ++i) {
    tile.rows_in_order[i] = ring + slot * tile.elements;
    slot = slot + 1 < size ? slot + 1 : 0;
  }
}

// A sum as it is stored; uint8 sums are in 1/2^16 and rounded half up, as OpenCV does.
template <class Storage, class T>
DENOISE_EXT_INLINE Storage from_sum(T sum) {
  if constexpr (sizeof(Storage) == 1) {
    return static_cast<Storage>((static_cast<int32_t>(sum) + (1 << 15)) >> 16);
  } else {
    return StoreAs<Storage>::from(sum);
  }
}

template <class Storage, class T>
void store_result(const Tensor4& output, const GaussianTile<T>& tile, int64_t y) {
  Storage* to = static_cast<Storage*>(output.data) + tile.n * output.stride[0] +
                tile.channel * output.stride[1] + y * output.stride[2] + tile.x0 * output.stride[3];
  const int64_t elements = tile.pixels * tile.channels, stride = output.stride[3];
  if (stride == tile.channels && (tile.channels == 1 || output.stride[1] == 1)) {
    for (int64_t e = 0; e < elements; ++e) to[e] = from_sum<Storage>(tile.result[e]);
    return;
  }
  for (int64_t x = 0; x < tile.pixels; ++x)
    for (int64_t c = 0; c < tile.channels; ++c)
      to[x * stride + c * output.stride[1]] = from_sum<Storage>(tile.result[x * tile.channels + c]);
}

template <class T>
void store_result_any(const Tensor4& output, const GaussianTile<T>& tile, int64_t y) {
  if constexpr (sizeof(T) == sizeof(float)) {
    switch (output.dtype) {
      case DType::kBFloat16: return store_result<BFloat16>(output, tile, y);
      case DType::kFloat16: return store_result<Float16>(output, tile, y);
      case DType::kUInt8: return store_result<uint8_t>(output, tile, y);
      default: break;
    }
  }
  store_result<T>(output, tile, y);
}

template <class T>
void gaussian_row(const GaussianPlan& plan, const GaussianTile<T>& tile, int64_t y) {
  const T* own = edge_taps_of<T>(plan, 0, y, tile.sigma_row);
  if (own != nullptr) {
    sum_rows(tile.rows_in_order, own, plan.radius[0], tile.elements, tile.result);
  } else {
    const T* taps = taps_of<T>(plan.taps[0], plan.radius[0], tile.sigma_row);
    sum_rows_symmetric(tile.rows_in_order, taps, plan.radius[0], tile.elements, tile.result);
  }
  store_result_any(plan.output, tile, y);
}

template <class T>
void gaussian_task(const GaussianPlan& plan, int64_t task, void* scratch) {
  const GaussianTile<T> tile = gaussian_tile<T>(plan, task, scratch);
  const int64_t radius_y = plan.radius[0], radius_x = plan.radius[1], size = 2 * radius_y + 1;
  const T* taps = taps_of<T>(plan.taps[1], radius_x, tile.sigma_row);
  const bool edge = spread_edge_taps(plan, tile);
  for (int64_t r = 0; r < tile.rows + 2 * radius_y; ++r) {
    T* row = tile.ring + r % size * tile.elements;
    pack_line(plan.input, tile, plan.border, radius_x, tile.y0 + r - radius_y);
    if (edge) {
      sum_columns(tile.line, tile.channels, tile.second, tile.elements, radius_x, tile.elements, row);
    } else {
      sum_columns_symmetric(tile.line, tile.channels, taps, radius_x, tile.elements, row);
    }
    if (r < 2 * radius_y) continue;
    order_ring(tile, tile.ring, r - 2 * radius_y, size);
    gaussian_row(plan, tile, tile.y0 + r - 2 * radius_y);
  }
}

// ---- gradient with respect to sigma ---------------------------------------------------------------

// Eight running sums: a fixed order that every ISA can vectorise.
template <class T>
double dot(const T* a, const T* b, int64_t count) {
  constexpr int kSums = 8;
  double sums[kSums] = {};
  int64_t i = 0;
  for (; i + kSums <= count; i += kSums)
    for (int s = 0; s < kSums; ++s) sums[s] += static_cast<double>(a[i + s]) * static_cast<double>(b[i + s]);
  for (; i < count; ++i) sums[0] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  double total = 0;
  for (int s = 0; s < kSums; ++s) total += sums[s];
  return total;
}

// partial_sums[task] = sum over the tile of grad_output times the blur with one axis' taps replaced
// by their derivative.
template <class T>
void gaussian_sigma_task(const GaussianPlan& plan, int64_t task, void* scratch) {
  const GaussianTile<T> tile = gaussian_tile<T>(plan, task, scratch);
  const int64_t radius_y = plan.radius[0], radius_x = plan.radius[1], size = 2 * radius_y + 1;
  const T* taps_y = taps_of<T>(plan.taps[0], radius_y, tile.sigma_row);
  const T* taps_x = taps_of<T>(plan.taps[1], radius_x, tile.sigma_row);
  const T* derivative_y = taps_of<T>(plan.derivative[0], radius_y, tile.sigma_row);
  const T* derivative_x = taps_of<T>(plan.derivative[1], radius_x, tile.sigma_row);
  const int64_t elements = tile.pixels * tile.channels;
  double sum_y = 0, sum_x = 0;
  for (int64_t r = 0; r < tile.rows + 2 * radius_y; ++r) {
    const int64_t slot = r % size * tile.elements;
    pack_line(plan.input, tile, plan.border, radius_x, tile.y0 + r - radius_y);
    sum_columns_symmetric(tile.line, tile.channels, taps_x, radius_x, tile.elements, tile.ring + slot);
    sum_columns_symmetric(tile.line, tile.channels, derivative_x, radius_x, tile.elements,
                          tile.second + slot);
    if (r < 2 * radius_y) continue;
    const int64_t y = r - 2 * radius_y;
    pack_line(plan.output, tile, Border::kConstant, 0, tile.y0 + y);
    order_ring<T>(tile, tile.ring, y, size);
    sum_rows_symmetric(tile.rows_in_order, derivative_y, radius_y, tile.elements, tile.result);
    sum_y += dot(tile.line, tile.result, elements);
    order_ring<T>(tile, tile.second, y, size);
    sum_rows_symmetric(tile.rows_in_order, taps_y, radius_y, tile.elements, tile.result);
    sum_x += dot(tile.line, tile.result, elements);
  }
  plan.partial_sums[2 * task] = sum_y;
  plan.partial_sums[2 * task + 1] = sum_x;
}
