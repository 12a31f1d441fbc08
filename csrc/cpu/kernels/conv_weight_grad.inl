// The gradient of a convolution's weight over one chunk of tiles: both tensors are packed, then the outer
// products of (fine channels at each tap) x (coarse channels) are summed over pixels in registers and
// added to the task's partial result.

// Some rows of a packed tile.
template <class T>
struct WeightGradTile {
  const T* coarse;  // [rows][cols][coarse_width]
  const T* fine;    // [..][fine's columns][fine_channels]
  int64_t rows, cols, coarse_width;
  int64_t fine_row_step, fine_pixel_step;  // between consecutive coarse rows, pixels
};

// partial[R][V * lanes] += sum over pixels of fine[offsets[r]] * coarse[v]; only `valid` rows are kept.
// Rows may belong to several taps: with one fine channel the taps share the loads of the coarse ones.
template <class T, int R, int V>
DENOISE_EXT_INLINE void sum_outer(const WeightGradTile<T>& tile, const int64_t* offsets, int64_t valid,
                                  T* partial) {
  int64_t offset[R];
#pragma GCC unroll 24
  for (int r = 0; r < R; ++r) offset[r] = offsets[r];
  Vec<T> acc[R][V] = {};
  for (int64_t y = 0; y < tile.rows; ++y) {
    const T* coarse = tile.coarse + y * tile.cols * tile.coarse_width;
    const T* pixel = tile.fine + y * tile.fine_row_step;
#pragma GCC unroll 1
    for (int64_t x = 0; x < tile.cols; ++x, coarse += tile.coarse_width, pixel += tile.fine_pixel_step) {
      Vec<T> g[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) g[v] = load(coarse + v * kLanes<T>);
#pragma GCC unroll 24
      for (int r = 0; r < R; ++r) {
        const Vec<T> value = broadcast<T>(pixel[offset[r]]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[r][v] += value * g[v];
      }
    }
  }
#pragma GCC unroll 24
  for (int r = 0; r < R; ++r)
    if (r < valid)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        T* to = partial + (r * V + v) * kLanes<T>;
        store(to, load(to) + acc[r][v]);
      }
}

// partial[V * lanes] += sum over pixels of fine * coarse, channel by channel.
template <class T, int V>
DENOISE_EXT_INLINE void sum_products(const WeightGradTile<T>& tile, const T* fine, T* partial) {
  Vec<T> acc[V] = {};
  for (int64_t y = 0; y < tile.rows; ++y) {
    const T* coarse = tile.coarse + y * tile.cols * tile.coarse_width;
    const T* pixel = fine + y * tile.fine_row_step;
#pragma GCC unroll 1
    for (int64_t x = 0; x < tile.cols; ++x, coarse += tile.coarse_width, pixel += tile.fine_pixel_step)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[v] += load(coarse + v * kLanes<T>) * load(pixel + v * kLanes<T>);
  }
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) store(partial + v * kLanes<T>, load(partial + v * kLanes<T>) + acc[v]);
}

// A few rows at a time, so that their coarse pixels stay in the first-level cache for all the products.
template <class T, int V>
void weight_grad_tile(const ConvWeightGradPlan& plan, WeightGradTile<T> tile, T* partial) {
  constexpr int kRows = kAccumulators / V;
  const int64_t width = V * kLanes<T>, all = tile.rows;
  const int64_t products = static_cast<int64_t>(plan.taps.size()) * plan.partials.group_fine;
  for (int64_t y = 0; y < all; y += plan.strip_rows) {
    tile.rows = all - y < plan.strip_rows ? all - y : plan.strip_rows;
    if (plan.partials.depthwise) {
      for (size_t t = 0; t < plan.taps.size(); ++t)
        sum_products<T, V>(tile, tile.fine + plan.taps[t].offset, partial + static_cast<int64_t>(t) * width);
    } else {
      for (int64_t r = 0; r < products; r += kRows)
        sum_outer<T, kRows, V>(tile, plan.offsets.data() + r, products - r, partial + r * width);
    }
    tile.coarse += tile.rows * tile.cols * width;
    tile.fine += tile.rows * tile.fine_row_step;
  }
}

template <class T>
void conv_weight_grad_task(const ConvWeightGradPlan& plan, int64_t index, void* scratch) {
  const ConvWeightGradParams& params = plan.params;
  const WeightGradPartials& partials = plan.partials;
  const auto [group, chunk, block] = partials.task(index);
  const int64_t width = block.vectors * kLanes<T>;
  const int64_t left = partials.group_coarse - block.first;
  T* fine = static_cast<T*>(scratch);
  T* coarse = fine + plan.fine_elements;
  T* partial = static_cast<T*>(partials.data) + index * partials.elements;
  __builtin_memset(partial, 0, static_cast<size_t>(partials.elements) * sizeof(T));

  PackWindow coarse_window{}, fine_window{};
  coarse_window.first_channel = group * partials.group_coarse + block.first;
  coarse_window.channels = left < width ? left : width;
  coarse_window.repeat = 1;
  fine_window.first_channel = partials.depthwise ? block.first : group * partials.group_fine;
  fine_window.channels = partials.depthwise ? coarse_window.channels : partials.group_fine;
  fine_window.repeat = partials.depthwise ? params.coarse.size[1] / params.fine.size[1] : 1;

  WeightGradTile<T> tile{};
  tile.coarse = coarse;
  tile.fine = fine;
  tile.coarse_width = width;
  const PackedAxis &fine_rows = plan.fine[0], &fine_cols = plan.fine[1];
  const PackedShape fine_shape{fine_cols.piece, plan.fine_channels, fine_cols.length};
  tile.fine_row_step = fine_rows.step * fine_cols.length * plan.fine_channels;
  tile.fine_pixel_step = fine_cols.step * plan.fine_channels;
  if (fine_rows.gathered) fine_window.y_step = params.stride[0];
  if (fine_cols.gathered) fine_window.x_step = params.stride[1];

  const int64_t per_image = plan.tiles_y * plan.tiles_x, total = params.coarse.size[0] * per_image;
  for (int64_t t = total * chunk / partials.chunks; t < total * (chunk + 1) / partials.chunks; ++t) {
    const int64_t y0 = t % per_image / plan.tiles_x * plan.tile_rows;
    const int64_t x0 = t % plan.tiles_x * plan.tile_cols;
    const int64_t rows = params.coarse.size[2] - y0, cols = params.coarse.size[3] - x0;
    tile.rows = rows < plan.tile_rows ? rows : plan.tile_rows;
    tile.cols = cols < plan.tile_cols ? cols : plan.tile_cols;
    coarse_window.n = fine_window.n = t / per_image;
    coarse_window.y0 = y0;
    coarse_window.rows = tile.rows;
    coarse_window.x0 = x0;
    coarse_window.cols = tile.cols;
    pack<T>(params.coarse, coarse_window, {tile.cols, width}, coarse);
    const auto packed = [&](const PackedAxis& axis, int64_t pixels, int d) {
      if (axis.gathered) return pixels;
      return (pixels - 1) * params.stride[d] + (params.grad_weight.size[2 + d] - 1) * params.dilation[d] + 1;
    };
    fine_window.rows = packed(fine_rows, tile.rows, 0);
    fine_window.cols = packed(fine_cols, tile.cols, 1);
    for (int64_t i = 0; i < fine_rows.pieces; ++i)
      for (int64_t j = 0; j < fine_cols.pieces; ++j) {
        fine_window.y0 = y0 * params.stride[0] - params.padding[0] + i * params.dilation[0];
        fine_window.x0 = x0 * params.stride[1] - params.padding[1] + j * params.dilation[1];
        pack<T>(params.fine, fine_window, fine_shape,
                fine + (i * fine_rows.piece * fine_cols.length + j * fine_cols.piece) * plan.fine_channels);
      }
    switch (block.vectors) {
      case 1: weight_grad_tile<T, 1>(plan, tile, partial); break;
      case 2: weight_grad_tile<T, 2>(plan, tile, partial); break;
      default:
        if constexpr (kAccumulators >= 24) {
          if (block.vectors == 3) weight_grad_tile<T, 3>(plan, tile, partial);
          if (block.vectors == 4) weight_grad_tile<T, 4>(plan, tile, partial);
        }
    }
  }
}
