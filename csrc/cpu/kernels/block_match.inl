// Block matching (see motion.h): the pyramids, and the motion of one row of blocks.

DENOISE_EXT_INLINE uint8_t* pyramid_row(const BlockMatchPlan& plan, int64_t pyramid, int level, int64_t y) {
  const PyramidLevel& l = plan.level[level];
  return plan.pyramids + pyramid * plan.pyramid_bytes + l.offset + y * l.stride;
}

// ---- pyramids -------------------------------------------------------------------------------------

// [0, 1] in steps of 1/256, exact in every type: a power of two rounds nothing. NaN counts as 0.
template <class T>
DENOISE_EXT_INLINE uint8_t step_of(T x) {
  const T steps = (x > T(0) ? x : T(0)) * T(256);
  return static_cast<uint8_t>(static_cast<int32_t>(steps < T(255) ? steps : T(255)));
}
template <class Storage>
DENOISE_EXT_INLINE uint8_t as_byte(Storage value) {
  return step_of<float>(load_as<float>(value));
}
DENOISE_EXT_INLINE uint8_t as_byte(double value) {
  return step_of<double>(value);
}
DENOISE_EXT_INLINE uint8_t as_byte(uint8_t value) {
  return value;
}

template <class Storage>
void quantise_row(const void* data, int64_t offset, int64_t stride, int64_t count, uint8_t* to) {
  const Storage* from = static_cast<const Storage*>(data) + offset;
  if (stride == 1) {
    for (int64_t x = 0; x < count; ++x) to[x] = as_byte(from[x]);
  } else {
    for (int64_t x = 0; x < count; ++x) to[x] = as_byte(from[x * stride]);
  }
}

void quantise_image_row(const Tensor4& image, int64_t n, int64_t y, uint8_t* to) {
  const int64_t offset = n * image.stride[0] + y * image.stride[2], stride = image.stride[3];
  const int64_t count = image.size[3];
  switch (image.dtype) {
    case DType::kFloat64: return quantise_row<double>(image.data, offset, stride, count, to);
    case DType::kBFloat16: return quantise_row<BFloat16>(image.data, offset, stride, count, to);
    case DType::kFloat16: return quantise_row<Float16>(image.data, offset, stride, count, to);
    case DType::kUInt8: return quantise_row<uint8_t>(image.data, offset, stride, count, to);
    case DType::kFloat32: return quantise_row<float>(image.data, offset, stride, count, to);
  }
}

// Sums of bytes 2 i and 2 i + 1 (of little-endian words).
DENOISE_EXT_INLINE Vec<uint16_t> pair_sums(Vec<uint8_t> bytes) {
  const auto words = reinterpret_cast<Vec<uint16_t>>(bytes);
  return (words & 0xff) + (words >> 8);
}

// Rounded means of 2 x 2 bytes; whole vectors, so what follows the row is written, too.
DENOISE_EXT_INLINE void halve_rows(const uint8_t* upper, const uint8_t* lower, int64_t count, uint8_t* to) {
  for (int64_t x = 0; x < count; x += kLanes<uint16_t>) {
    const Vec<uint16_t> sum = pair_sums(load(upper + 2 * x)) + pair_sums(load(lower + 2 * x));
    store_narrowed(to + x, (sum + 2) >> 2);
  }
}

DENOISE_EXT_INLINE void repeat_edges(uint8_t* row, const PyramidLevel& level, int64_t inside) {
  __builtin_memset(row - level.border, row[0], static_cast<size_t>(level.border));
  __builtin_memset(row + inside, row[inside - 1], static_cast<size_t>(level.width - inside + level.border));
}

void pyramid_rows(const BlockMatchPlan& plan, int64_t pyramid, int64_t block_row) {
  const Tensor4& image = plan.frames[pyramid];
  for (int level = 0; level < kLevels; ++level) {
    const PyramidLevel& l = plan.level[level];
    const int64_t side = kBlock >> level, first = block_row * side;
    for (int64_t y = first; y < first + side; ++y) {
      uint8_t* row = pyramid_row(plan, pyramid, level, y);
      if (level == 0) {
        const int64_t source = y < image.size[2] ? y : image.size[2] - 1;
        quantise_image_row(image, plan.image, source, row);
        repeat_edges(row, l, image.size[3]);
      } else {
        const uint8_t* finer = pyramid_row(plan, pyramid, level - 1, 2 * y);
        halve_rows(finer, finer + plan.level[level - 1].stride, l.width, row);
        repeat_edges(row, l, l.width);
      }
    }
    const size_t bytes = static_cast<size_t>(l.width + 2 * l.border);
    for (int64_t i = 1; i <= l.border && block_row == 0; ++i)
      __builtin_memcpy(pyramid_row(plan, pyramid, level, -i) - l.border,
                       pyramid_row(plan, pyramid, level, 0) - l.border, bytes);
    for (int64_t i = 0; i < l.border && block_row == plan.rows - 1; ++i)
      __builtin_memcpy(pyramid_row(plan, pyramid, level, l.height + i) - l.border,
                       pyramid_row(plan, pyramid, level, l.height - 1) - l.border, bytes);
  }
}

// ---- matching -------------------------------------------------------------------------------------

DENOISE_EXT_INLINE Vec<uint8_t> absolute_difference(Vec<uint8_t> a, Vec<uint8_t> b) {
  return (a > b ? a : b) - (a > b ? b : a);
}

typedef uint8_t Bytes16 __attribute__((vector_size(16)));
typedef int64_t Words16 __attribute__((vector_size(16)));

// The sums of absolute differences of 2 x 8 bytes, in 64 bits each.
template <class V>
DENOISE_EXT_INLINE Words16 sad_16(V a, V b) {
  if constexpr (kX86) {
    // A type that depends on V: compilers of other architectures do not know the builtin.
    using Chars16 = typename VecOfCount<char, sizeof(V)>::type;
    return reinterpret_cast<Words16>(
        __builtin_ia32_psadbw128(reinterpret_cast<Chars16>(a), reinterpret_cast<Chars16>(b)));
  } else {
    typedef uint16_t Halves16 __attribute__((vector_size(16)));
    const auto words = reinterpret_cast<Halves16>((a > b ? a : b) - (a > b ? b : a));
    const Halves16 pairs = (words & 0xff) + (words >> 8);
    return Words16{pairs[0] + pairs[1] + pairs[2] + pairs[3], pairs[4] + pairs[5] + pairs[6] + pairs[7]};
  }
}

DENOISE_EXT_INLINE Bytes16 load_16(const uint8_t* from) {
  Bytes16 bytes;
  __builtin_memcpy(&bytes, from, 16);
  return bytes;
}
DENOISE_EXT_INLINE Bytes16 load_8_and_8(const uint8_t* lower, const uint8_t* upper) {
  Words16 words;
  int64_t word;
  __builtin_memcpy(&word, lower, 8);
  words[0] = word;
  __builtin_memcpy(&word, upper, 8);
  words[1] = word;
  return reinterpret_cast<Bytes16>(words);
}

// A window of 8 x 8 or 16 x 16 bytes, 16 at a time.
template <int kSide>
struct Window {
  static constexpr int kParts = kSide * kSide / 16;

  DENOISE_EXT_INLINE static Bytes16 part(const uint8_t* from, int64_t stride, int i) {
    if constexpr (kSide == 16) return load_16(from + i * stride);
    return load_8_and_8(from + 2 * i * stride, from + (2 * i + 1) * stride);
  }

  DENOISE_EXT_INLINE Window(const uint8_t* from, int64_t stride) {
#pragma GCC unroll 16
    for (int i = 0; i < kParts; ++i) parts[i] = part(from, stride, i);
  }

  // The sum of absolute differences to another one.
  DENOISE_EXT_INLINE int32_t sad(const uint8_t* other, int64_t stride) const {
    Words16 sum{};
#pragma GCC unroll 16
    for (int i = 0; i < kParts; ++i) sum += sad_16(parts[i], part(other, stride, i));
    return static_cast<int32_t>(sum[0] + sum[1]);
  }

  Bytes16 parts[kParts];
};

// A quarter of the resolution: 4 x 4 windows that overlap by half, every vector of the search. Vectors of
// blocks: `best` and `index` of all blocks of the row.
DENOISE_EXT_INLINE void search_coarse(const BlockMatchPlan& plan, int64_t row, const int16_t* penalty,
                                      int16_t* pairs, int16_t* best, int16_t* index) {
  constexpr int kSearch = kCoarseSearch, kSide = 2 * kSearch + 1, kCentre = kSide * kSearch + kSearch;
  const int64_t stride = plan.level[2].stride, columns = plan.columns;
  const uint8_t* here = pyramid_row(plan, 0, 2, 2 * row - 1) - 1;
  const uint8_t* there = pyramid_row(plan, 1, 2, 2 * row - 1) - 1;
  for (int step = 0; step < kSide * kSide; ++step) {
    // The zero vector first, which wins where others are no better.
    const int candidate = step == 0 ? kCentre : (step <= kCentre ? step - 1 : step);
    const int dy = candidate / kSide - kSearch, dx = candidate % kSide - kSearch;
    const uint8_t* moved = there + dy * stride + dx;
    for (int64_t j = 0; j <= columns; j += kLanes<uint16_t>) {
      Vec<uint16_t> sum{};
#pragma GCC unroll 4
      for (int64_t i = 0; i < 4; ++i)
        sum +=
            pair_sums(absolute_difference(load(here + i * stride + 2 * j), load(moved + i * stride + 2 * j)));
      store(pairs + j, reinterpret_cast<Vec<int16_t>>(sum));
    }
    const int16_t length = static_cast<int16_t>(kVectorLength * ((dy < 0 ? -dy : dy) + (dx < 0 ? -dx : dx)));
    for (int64_t j = 0; j < columns; j += kLanes<int16_t>) {
      const Vec<int16_t> sad = load(pairs + j) + load(pairs + j + 1);
      if (step == 0) {
        store(best + j, sad);
        store(index + j, broadcast<int16_t>(kCentre));
        continue;
      }
      const Vec<int16_t> cost = sad + load(penalty + j) + length, least = load(best + j);
      const auto better = cost < least;
      store(best + j, better ? cost : least);
      store(index + j, better ? broadcast<int16_t>(static_cast<int16_t>(candidate)) : load(index + j));
    }
  }
}

// The neighbour of a vector that fits best, itself unless another one wins by the penalty.
template <int kSide>
DENOISE_EXT_INLINE void refine(const uint8_t* here, const uint8_t* there, int64_t stride, int32_t penalty,
                               int64_t& dy, int64_t& dx) {
  constexpr int kOrder[3] = {0, -1, 1};
  const Window<kSide> window(here, stride);
  const uint8_t* moved = there + dy * stride + dx;
  int32_t best = window.sad(moved, stride);
  int64_t best_y = 0, best_x = 0;
  for (int step = 1; step < 9; ++step) {
    const int64_t y = kOrder[step / 3], x = kOrder[step % 3];
    const int32_t cost = window.sad(moved + y * stride + x, stride) + penalty;
    if (cost < best) {
      best = cost;
      best_y = y;
      best_x = x;
    }
  }
  dy += best_y;
  dx += best_x;
}

void match_row(const BlockMatchPlan& plan, int64_t row, void* scratch) {
  const int64_t columns = plan.columns, line = columns + 1 + kRowSlack;
  int16_t *penalty = static_cast<int16_t*>(scratch), *pairs = penalty + line, *best = pairs + line,
          *index = best + line;
  const int64_t first = row * columns;
  const MatchPenalty* penalties = plan.penalties + first;
  for (int64_t x = 0; x < columns; ++x) penalty[x] = static_cast<int16_t>(penalties[x].coarse);
  // The last vectors reach beyond the columns, where no sum may overflow.
  for (int64_t x = columns; x < line; ++x) penalty[x] = 0;
  for (int64_t x = 0; x < line; ++x) pairs[x] = 0;
  search_coarse(plan, row, penalty, pairs, best, index);
  int16_t* motion = plan.motion + 2 * first;
  const int64_t half_stride = plan.level[1].stride, full_stride = plan.level[0].stride;
  for (int64_t x = 0; x < columns; ++x) {
    constexpr int64_t kSide = 2 * kCoarseSearch + 1;
    int64_t dy = 2 * (index[x] / kSide - kCoarseSearch), dx = 2 * (index[x] % kSide - kCoarseSearch);
    refine<8>(pyramid_row(plan, 0, 1, 4 * row - 2) + 4 * x - 2,
              pyramid_row(plan, 1, 1, 4 * row - 2) + 4 * x - 2, half_stride, penalties[x].half, dy, dx);
    dy *= 2;
    dx *= 2;
    refine<16>(pyramid_row(plan, 0, 0, 8 * row - 4) + 8 * x - 4,
               pyramid_row(plan, 1, 0, 8 * row - 4) + 8 * x - 4, full_stride, penalties[x].full, dy, dx);
    motion[2 * x] = static_cast<int16_t>(dy);
    motion[2 * x + 1] = static_cast<int16_t>(dx);
  }
}
