// Decoding of interleaved range asymmetric numeral systems: rans.h. Includes nothing.

// One symbol of each of the first `count` lanes. It reads a word for some of them.
DENOISE_EXT_INLINE void rans_step(const RansTables& tables, const uint16_t* classes, RansReader& reader,
                                  uint8_t* symbols, int count) {
  const uint8_t* __restrict symbol = tables.symbol.data();
  const uint32_t* __restrict interval = tables.interval.data();
  const uint16_t* __restrict word = reader.words + reader.position;
  const auto width = static_cast<uint32_t>(tables.symbols);
  uint32_t found[kRansLanes], parts[kRansLanes];
  for (int lane = 0; lane < count; ++lane) {
    const uint32_t kind = classes[lane];
    parts[lane] = reader.states[lane] & (kRansTotal - 1);
    const uint32_t value = symbol[kind << kRansBits | parts[lane]];
    symbols[lane] = static_cast<uint8_t>(value);
    found[lane] = interval[kind * width + value];
  }
  for (int lane = 0; lane < count; ++lane)
    found[lane] =
        (found[lane] & 0xffff) * (reader.states[lane] >> kRansBits) + parts[lane] - (found[lane] >> 16);
  int read = 0;
  for (int lane = 0; lane < count; ++lane) {
    const bool low = found[lane] < kRansLow;
    reader.states[lane] = low ? found[lane] << 16 | word[read] : found[lane];
    read += low;
  }
  reader.position += read;
}

bool rans_decode(const RansTables& tables, const uint16_t* classes, int64_t count, RansReader& reader,
                 uint8_t* symbols) {
  RansReader local = reader;  // its states stay in registers
  int64_t i = 0;
  for (; i + kRansLanes <= count && local.position <= local.count; i += kRansLanes)
    rans_step(tables, classes + i, local, symbols + i, kRansLanes);
  if (i < count && local.position <= local.count)
    rans_step(tables, classes + i, local, symbols + i, static_cast<int>(count - i));
  reader = local;
  return reader.position <= reader.count;
}
