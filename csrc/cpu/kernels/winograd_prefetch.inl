// Reads into the second-level cache, a few cache lines with each product, what comes next: the places of
// this block's outputs, and the inputs of the block that the thread takes next. The products wait for no
// memory themselves. Writing outputs to places that are not in the cache would wait for them.

// `count` rows or columns of an image, `step` apart.
struct PixelRange {
  int64_t first, count, step;
};

// Those inside an image of that size.
DENOISE_EXT_INLINE PixelRange inside(const PixelRange& range, int64_t size) {
  const int64_t before = range.first < 0 ? divide_up(-range.first, range.step) : 0;
  const int64_t first = range.first + before * range.step;
  const int64_t most = first < size ? divide_up(size - first, range.step) : 0;
  const int64_t left = range.count - before;
  return {first, left < most ? left : most, range.step};
}

// Rows of pieces that lie side by side in memory; lengths in bytes.
struct PixelArea {
  const char* first;
  int64_t rows, row_step, pieces, piece_step, bytes;
};

// Channels of these pixels of a float32 image, as far as they are inside.
DENOISE_EXT_INLINE PixelArea pixel_area(const Tensor4& image, int64_t n, const PixelRange& rows_wanted,
                                        const PixelRange& cols_wanted, int64_t channel, int64_t channels) {
  constexpr auto kElement = static_cast<int64_t>(sizeof(float));
  const PixelRange rows = inside(rows_wanted, image.size[2]), cols = inside(cols_wanted, image.size[3]);
  const int64_t at =
      n * image.stride[0] + rows.first * image.stride[2] + cols.first * image.stride[3] + channel;
  PixelArea area{static_cast<const char*>(image.data) + at * kElement,
                 cols.count > 0 ? rows.count : 0,
                 rows.step * image.stride[2] * kElement,
                 cols.count,
                 cols.step * image.stride[3] * kElement,
                 channels * kElement};
  if (area.piece_step == area.bytes) {
    area.bytes *= area.pieces;
    area.pieces = 1;
  }
  return area;
}

// The cache lines of the areas that Areas::next() gives, until it returns false.
template <class Areas>
struct LinePrefetch {
  Areas areas;
  PixelArea area{};
  int64_t row = 0, piece = 0;
  const char *line = nullptr, *end = nullptr;
  bool done = false;

  DENOISE_EXT_INLINE void advance(int64_t lines) {
    while (lines > 0) {
      if (line >= end) {
        done = done || !next_piece();
        if (done) return;
      }
      const int64_t left = divide_up(end - line, kLineBytes), count = left < lines ? left : lines;
      const char* at = line;  // of its own: the member would be written with each
#pragma GCC unroll 4
      for (int64_t i = 0; i < count; ++i, at += kLineBytes) __builtin_prefetch(at, 0, 2);
      line = at;
      lines -= count;
    }
  }

  __attribute__((noinline)) bool next_piece() {
    if (++piece >= area.pieces) {
      piece = 0;
      if (++row >= area.rows) {
        row = 0;
        do {
          if (!areas.next(area)) return false;
        } while (area.rows <= 0);
      }
    }
    line = area.first + row * area.row_step + piece * area.piece_step;
    end = line + area.bytes;
    return true;
  }
};

// How many tiles lie side by side from the tile `at` on, the index-th, before `last`.
DENOISE_EXT_INLINE int64_t tiles_beside(const WinogradPlan& plan, const WinogradTile& at, int64_t index,
                                        int64_t last) {
  const int64_t row = plan.tiles_x - at.x / plan.outputs, left = last - index;
  return row < left ? row : left;
}

// The pixels that tiles read, without those that the tiles above or to the left read too.
struct WinogradInputAreas {
  const WinogradPlan& plan;
  int64_t tile, last;
  size_t image = 0;  // that comes next: the input's phases, and the coarse image

  bool next(PixelArea& area) {
    const Tensor4 &input = plan.params.input, &coarse = plan.params.coarse;
    while (tile < last) {
      const WinogradTile at = winograd_tile(plan, tile);
      const int64_t tiles = tiles_beside(plan, at, tile, last), overlap = plan.points - plan.outputs;
      const int64_t y = at.y0 + overlap, x = at.x0 + overlap, m = plan.outputs;
      const size_t now = image++;
      if (now < plan.phases.inputs.size()) {
        if (!plan.direct_input) continue;
        const WinogradPhase& phase = plan.phases.inputs[now];
        const int64_t* step = plan.phases.input_step;
        area = pixel_area(input, at.n, {y * step[0] + phase.first[0] + at.first[0], m, step[0]},
                          {x * step[1] + phase.first[1] + at.first[1], tiles * m, step[1]}, 0, input.size[1]);
        return true;
      }
      image = 0;
      tile += tiles;
      if (!plan.direct_coarse) continue;
      area = pixel_area(coarse, at.n, {(y + 1) / 2, m / 2, 1}, {(x + 1) / 2, tiles * m / 2, 1}, 0,
                        coarse.size[1]);
      return true;
    }
    return false;
  }
};

// The outputs of tiles, of one block of filters.
struct WinogradOutputAreas {
  const WinogradPlan& plan;
  const WinogradPhase& phase;
  const ChannelBlock& block;
  int64_t tile, last;

  bool next(PixelArea& area) {
    if (tile >= last) return false;
    const WinogradTile at = winograd_tile(plan, tile);
    const int64_t tiles = tiles_beside(plan, at, tile, last), m = plan.outputs;
    tile += tiles;
    const int64_t* step = plan.phases.output_step;
    const int64_t width = block.vectors * static_cast<int64_t>(kLanes<float>);
    const int64_t left = plan.filters - block.first;
    area = pixel_area(plan.params.output, at.n, {phase.first[0] + at.first[0] + at.y * step[0], m, step[0]},
                      {phase.first[1] + at.first[1] + at.x * step[1], tiles * m, step[1]}, block.first,
                      left < width ? left : width);
    return true;
  }
};

// What the products of one block of filters advance.
struct WinogradPrefetch {
  LinePrefetch<WinogradOutputAreas> outputs;
  LinePrefetch<WinogradInputAreas>& inputs;
  int64_t output_lines, input_lines;  // with each product

  DENOISE_EXT_INLINE void advance() {
    outputs.advance(output_lines);
    inputs.advance(input_lines);
  }
};

// Lines of the outputs of a register tile, for one of the points.
DENOISE_EXT_INLINE int64_t winograd_output_lines(const WinogradPlan& plan, int vectors) {
  const int64_t tiles = winograd_register_tiles(kAccumulators, vectors);
  return divide_up(tiles * plan.outputs * plan.outputs * vectors * kVectorBytes,
                   kLineBytes * plan.points * plan.points);
}
