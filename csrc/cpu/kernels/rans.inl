// Decoding of interleaved range asymmetric numeral systems: rans.h. Includes nothing.

// One symbol of each of the first `count` lanes, one lane after the other. It reads a word for some of them.
DENOISE_EXT_INLINE void rans_lanes(const RansTables& tables, const uint16_t* classes, RansReader& reader,
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
  // Without a branch: which lanes read a word is a matter of chance.
  uint32_t read = 0;
  for (int lane = 0; lane < count; ++lane) {
    const uint32_t low = found[lane] < kRansLow;
    reader.states[lane] = found[lane] << (16 * low) | (word[read] & -low);
    read += low;
  }
  reader.position += read;
}

// Lane i: the 32 bits that lie kBytes * index[i] bytes after `from`. AVX-512 alone: the gathers of AVX2 take
// longer than rans_lanes.
template <int kBytes, class V, class Ints = Vec<int32_t>>
DENOISE_EXT_INLINE V gather(const void* from, V index) {
  return reinterpret_cast<V>(
      __builtin_ia32_gathersiv16si(Ints{}, from, reinterpret_cast<Ints>(index), -1, kBytes));
}

// As many numbers of T as a vector has lanes of 32 bits.
template <class T>
struct Narrow {
  static constexpr int kBytes = kVectorBytes / 4 * static_cast<int>(sizeof(T));
  typedef T type __attribute__((vector_size(kBytes)));
  typedef T unaligned __attribute__((vector_size(kBytes), aligned(alignof(T)), may_alias));
};

// Each as a number of 32 bits.
template <class V, class T>
DENOISE_EXT_INLINE V load_wide(const T* from) {
  const typename Narrow<T>::type read = *reinterpret_cast<const typename Narrow<T>::unaligned*>(from);
  return __builtin_convertvector(read, V);
}

// The first numbers of `next`, one for each lane of `mask`, in the order of the lanes. AVX-512 alone.
template <class Ints>
DENOISE_EXT_INLINE Ints expand(Ints next, uint16_t mask) {
#if defined(__clang__)
  return __builtin_ia32_expandsi512_mask(next, Ints{}, mask);
#else
  return __builtin_ia32_expandsi512_maskz(next, Ints{}, static_cast<int16_t>(mask));
#endif
}

// One symbol of every lane, all lanes in one vector.
template <class V, class Ints = Vec<int32_t>>
DENOISE_EXT_INLINE void rans_vector(const RansTables& tables, const uint16_t* classes, RansReader& reader,
                                    uint8_t* symbols) {
  const V state = load<uint32_t>(reader.states);
  const V kind = load_wide<V>(classes);
  const V part = state & (kRansTotal - 1);
  const V value = gather<1>(tables.symbol.data(), kind << kRansBits | part) & 0xff;
  *reinterpret_cast<Narrow<uint8_t>::unaligned*>(symbols) =
      __builtin_convertvector(value, Narrow<uint8_t>::type);
  const V interval = gather<4>(tables.interval.data(), kind * static_cast<uint32_t>(tables.symbols) + value);
  const V found = (interval & 0xffff) * (state >> kRansBits) + part - (interval >> 16);
  const auto low = reinterpret_cast<Ints>(found < kRansLow);
  const auto mask = static_cast<uint16_t>(__builtin_ia32_cvtd2mask512(low));
  const auto words = reinterpret_cast<V>(expand(load_wide<Ints>(reader.words + reader.position), mask));
  store<uint32_t>(reader.states, low ? found << 16 | words : found);
  reader.position += __builtin_popcount(mask);
}

DENOISE_EXT_INLINE void rans_step(const RansTables& tables, const uint16_t* classes, RansReader& reader,
                                  uint8_t* symbols) {
  if constexpr (kAvx512)
    rans_vector<Vec<uint32_t>>(tables, classes, reader, symbols);
  else
    rans_lanes(tables, classes, reader, symbols, kRansLanes);
}

bool rans_decode(const RansTables& tables, const uint16_t* classes, int64_t count, RansReader& reader,
                 uint8_t* symbols) {
  RansReader local = reader;  // its states stay in registers
  int64_t i = 0;
  for (; i + kRansLanes <= count && local.position <= local.count; i += kRansLanes)
    rans_step(tables, classes + i, local, symbols + i);
  if (i < count && local.position <= local.count)
    rans_lanes(tables, classes + i, local, symbols + i, static_cast<int>(count - i));
  reader = local;
  return reader.position <= reader.count;
}
