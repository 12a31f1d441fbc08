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

// As `step_of`, a vector at a time: compilers make long code of the loop. Returns how many there were.
DENOISE_EXT_INLINE int64_t quantise_vectors(const float* from, int64_t count, uint8_t* to) {
  using Bytes = typename VecOfCount<uint8_t, kLanes<float>>::type;
  int64_t x = 0;
  for (; x + kLanes<float> <= count; x += kLanes<float>) {
    const Vec<float> steps = maximum<float>(load(from + x), Vec<float>{}) * 256.0f;
    const Vec<float> least = steps < broadcast(255.0f) ? steps : broadcast(255.0f);
    const Bytes bytes = __builtin_convertvector(__builtin_convertvector(least, Vec<int32_t>), Bytes);
    __builtin_memcpy(to + x, &bytes, sizeof(bytes));
  }
  return x;
}

template <class Storage>
void quantise_row(const void* data, int64_t offset, int64_t stride, int64_t count, uint8_t* to) {
  const Storage* from = static_cast<const Storage*>(data) + offset;
  if (stride == 1) {
    int64_t x = 0;
    if constexpr (std::is_same_v<Storage, float>) x = quantise_vectors(from, count, to);
    for (; x < count; ++x) to[x] = as_byte(from[x]);
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

// Bytes of windows that are compared at once: rows of 16, two of them where there is an instruction.
constexpr int kWindowRow = 16;
constexpr int kPart = kX86 && kVectorBytes >= 32 ? 2 * kWindowRow : kWindowRow;
using Part = typename VecOfCount<uint8_t, kPart>::type;
// Partial sums of absolute differences: of eight bytes each, else of two.
using PartSums = std::conditional_t<kX86, typename VecOfCount<int64_t, kPart / 8>::type,
                                    typename VecOfCount<uint16_t, kPart / 2>::type>;

// Templates of a vector: compilers of other architectures do not know the builtins.
template <class V>
DENOISE_EXT_INLINE PartSums sad_part(V a, V b) {
  if constexpr (kX86) {
    using Chars = typename VecOfCount<char, sizeof(V)>::type;
    const Chars left = reinterpret_cast<Chars>(a), right = reinterpret_cast<Chars>(b);
    if constexpr (sizeof(V) == 32)
      return reinterpret_cast<PartSums>(__builtin_ia32_psadbw256(left, right));
    else
      return reinterpret_cast<PartSums>(__builtin_ia32_psadbw128(left, right));
  } else {
    const auto words = reinterpret_cast<PartSums>((a > b ? a : b) - (a > b ? b : a));
    return (words & 0xff) + (words >> 8);
  }
}

// One or two rows of a window; the second one lies behind `stride`.
template <class V = Part>
DENOISE_EXT_INLINE V load_part(const uint8_t* from, int64_t stride) {
  if constexpr (sizeof(V) == kWindowRow) {
    V row;
    __builtin_memcpy(&row, from, kWindowRow);
    return row;
  } else {
    using Row = typename VecOfCount<int, sizeof(V) / 8>::type;
    using RowWords = typename VecOfCount<long long, sizeof(V) / 16>::type;
    using Words = typename VecOfCount<long long, sizeof(V) / 8>::type;
    Row first;
    RowWords second;
    __builtin_memcpy(&first, from, kWindowRow);
    __builtin_memcpy(&second, from + stride, kWindowRow);
#if defined(__clang__)
    return reinterpret_cast<V>(
        __builtin_shufflevector(reinterpret_cast<RowWords>(first), second, 0, 1, 2, 3));
#else
    const auto lower = reinterpret_cast<Words>(__builtin_ia32_si256_si(first));
    return reinterpret_cast<V>(__builtin_ia32_insert128i256(lower, second, 1));
#endif
  }
}

// The sum over the first kSide bytes of the rows.
template <int kSide>
DENOISE_EXT_INLINE int32_t total(PartSums sums) {
  constexpr int kRowSums = static_cast<int>(sizeof(PartSums) / sizeof(sums[0])) * kWindowRow / kPart;
  int64_t sum = 0;
#pragma GCC unroll 16
  for (int i = 0; i < kRowSums * (kPart / kWindowRow); ++i)
    if (i % kRowSums < kRowSums * kSide / kWindowRow) sum += sums[i];
  return static_cast<int32_t>(sum);
}

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

// The neighbour of a vector that fits best, itself unless another one wins by the penalty. Rows are read
// as of 16 bytes, also those of windows of 8, whose other sums are left out.
template <int kSide>
DENOISE_EXT_INLINE void refine(const uint8_t* here, const uint8_t* there, int64_t stride, int32_t penalty,
                               int64_t& dy, int64_t& dx) {
  constexpr int kOrder[3] = {0, -1, 1};
  const uint8_t* moved = there + dy * stride + dx;
  PartSums sums[9]{};
  for (int y = 0; y < kSide; y += kPart / kWindowRow) {
    const Part part = load_part(here, stride);
#pragma GCC unroll 9
    for (int step = 0; step < 9; ++step)
      sums[step] += sad_part(part, load_part(moved + kOrder[step / 3] * stride + kOrder[step % 3], stride));
    here += kPart / kWindowRow * stride;
    moved += kPart / kWindowRow * stride;
  }
  // The step is in the lowest bits: the first of equal costs is the least, and nothing branches.
  int32_t best = total<kSide>(sums[0]) << 4;
#pragma GCC unroll 8
  for (int step = 1; step < 9; ++step) {
    const int32_t cost = ((total<kSide>(sums[step]) + penalty) << 4) + step;
    best = cost < best ? cost : best;
  }
  const int step = best & 15;
  dy += kOrder[step / 3];
  dx += kOrder[step % 3];
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
