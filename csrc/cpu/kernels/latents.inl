// The classes of a codec's latents, in whole numbers: latents.h. Includes nothing.

// Adds what a latent means for the channels from `from` on.
DENOISE_EXT_INLINE void add_context(const int16_t* __restrict weights, int64_t channels, int64_t from,
                                    int32_t value, int32_t* __restrict sums) {
  value = value > kLargestContext ? kLargestContext : value < -kLargestContext ? -kLargestContext : value;
  const int32_t magnitude = value < 0 ? -value : value;
  for (int64_t i = from; i < channels; ++i) sums[i] += weights[i] * value;
  for (int64_t i = channels + from; i < 2 * channels; ++i) sums[i] += weights[i] * magnitude;
}

// The sums of a place before any of its own latents.
void sums_of_place(const LatentModel& model, const int16_t* latents, int64_t row, int64_t column,
                   int64_t columns, int32_t* sums) {
  const int64_t channels = model.channels;
  for (int64_t i = 0; i < 2 * channels; ++i) sums[i] = model.first[i];
  const int64_t rows_up[kNeighbours] = {1, 1, 1, 0}, right[kNeighbours] = {-1, 0, 1, -1};
  for (int64_t k = 0; k < kNeighbours; ++k) {
    const int64_t y = row - rows_up[k], x = column + right[k];
    if (y < 0 || x < 0 || x >= columns) continue;
    const int32_t* inside = model.inside + 2 * channels * k;
    for (int64_t i = 0; i < 2 * channels; ++i) sums[i] += inside[i];
    const int16_t* known = latents + (y * columns + x) * channels;
    for (int64_t c = 0; c < channels; ++c)
      if (known[c] != 0)
        add_context(model.weights + (k * channels + c) * 2 * channels, channels, 0, known[c], sums);
  }
}

struct LatentClass {
  uint16_t index;
  int32_t whole;  // the whole number next to the mean
  int32_t sign;   // -1: the mean lies below it
};

DENOISE_EXT_INLINE LatentClass class_of(int32_t mean, int32_t scale) {
  const int32_t eighths = (mean + (1 << (kFraction - 4))) >> (kFraction - 3);
  const int32_t whole = (eighths + 4) >> 3;
  const int32_t offset = eighths - 8 * whole;
  const int32_t bounded = scale < kLeastScale ? kLeastScale : scale > kLargestScale ? kLargestScale : scale;
  const int octave = 31 - __builtin_clz(static_cast<uint32_t>(bounded));
  const int32_t index = 4 * octave + (bounded >> (octave - 2) & 3) - 22;
  return {static_cast<uint16_t>((offset < 0 ? -offset : offset) * kScales + index), whole,
          offset < 0 ? -1 : 1};
}

// What the latents of a group mean for those of later groups.
DENOISE_EXT_INLINE void add_group(const LatentModel& model, const int16_t* here, int64_t first,
                                  int32_t* sums) {
  const int64_t channels = model.channels, next = first + kRansLanes;
  if (next >= channels) return;
  for (int64_t c = first; c < next; ++c)
    if (here[c] != 0)
      add_context(model.weights + (kNeighbours * channels + c) * 2 * channels, channels, next, here[c], sums);
}

void latent_symbols(const LatentModel& model, const int16_t* latents, int64_t rows, int64_t columns,
                    int32_t* sums, const LatentSymbols& found) {
  const int64_t channels = model.channels;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < columns; ++column) {
      const int64_t place = (row * columns + column) * channels;
      const int16_t* here = latents + place;
      sums_of_place(model, latents, row, column, columns, sums);
      for (int64_t first = 0; first < channels; first += kRansLanes) {
        for (int64_t c = first; c < first + kRansLanes; ++c) {
          const LatentClass found_class = class_of(sums[c], sums[channels + c]);
          const int32_t rest = found_class.sign * (here[c] - found_class.whole);
          const int16_t* frequency = model.frequencies.data + found_class.index * kLatentSymbols + kCentre;
          const bool fits = rest >= -kCentre && rest <= kCentre && frequency[rest] > 0;
          found.classes[place + c] = found_class.index;
          found.symbols[place + c] = static_cast<uint8_t>(fits ? rest + kCentre : kEscape);
          if (!fits) put_escape(*found.escapes, rest);
        }
        add_group(model, here, first, sums);
      }
    }
}

const char* decode_latents(const LatentModel& model, const RansTables& tables, RansReader& reader,
                           BitReader& escapes, int64_t rows, int64_t columns, int32_t* sums,
                           int16_t* latents) {
  const int64_t channels = model.channels;
  uint16_t classes[kRansLanes];
  uint8_t symbols[kRansLanes];
  LatentClass found[kRansLanes];
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < columns; ++column) {
      int16_t* here = latents + (row * columns + column) * channels;
      sums_of_place(model, latents, row, column, columns, sums);
      for (int64_t first = 0; first < channels; first += kRansLanes) {
        for (int lane = 0; lane < kRansLanes; ++lane) {
          found[lane] = class_of(sums[first + lane], sums[channels + first + lane]);
          classes[lane] = found[lane].index;
        }
        rans_step(tables, classes, reader, symbols);
        if (reader.position > reader.count) return "ends too early";
        for (int lane = 0; lane < kRansLanes; ++lane) {
          int32_t rest = symbols[lane] - kCentre;
          if (symbols[lane] == kEscape && !get_escape(escapes, rest))
            return "holds a number that is too large";
          const int32_t value = found[lane].whole + found[lane].sign * rest;
          if (value < INT16_MIN || value > INT16_MAX) return "holds a number that is too large";
          here[first + lane] = static_cast<int16_t>(value);
        }
        add_group(model, here, first, sums);
      }
    }
  return nullptr;
}
