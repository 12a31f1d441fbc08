#include "rans.h"

#include <algorithm>

#include "coder_kernels.h"
#include "isa.h"

namespace denoise_ext::cpu {

const char* frequencies_fault(const RansFrequencies& frequencies) {
  if (frequencies.symbols < 1 || frequencies.symbols > kRansSymbols) return "must have 1 to 256 symbols";
  if (frequencies.classes < 1 || frequencies.classes > UINT16_MAX) return "must have 1 to 65535 classes";
  for (int64_t row = 0; row < frequencies.classes; ++row) {
    const int16_t* line = frequencies.data + row * frequencies.symbols;
    int64_t sum = 0;
    for (int64_t i = 0; i < frequencies.symbols; ++i) {
      if (line[i] < 0) return "must be >= 0";
      sum += line[i];
    }
    if (sum != kRansTotal) return "must sum to 4096 in each class";
  }
  return nullptr;
}

namespace {

std::vector<uint32_t> intervals_of(const RansFrequencies& frequencies) {
  std::vector<uint32_t> intervals(static_cast<size_t>(frequencies.classes * frequencies.symbols));
  uint32_t* interval = intervals.data();
  for (int64_t row = 0; row < frequencies.classes; ++row) {
    const int16_t* line = frequencies.data + row * frequencies.symbols;
    uint32_t start = 0;
    for (int64_t symbol = 0; symbol < frequencies.symbols; ++symbol) {
      const auto frequency = static_cast<uint32_t>(line[symbol]);
      *interval++ = start << 16 | frequency;
      start += frequency;
    }
  }
  return intervals;
}

// state / frequency for every state: the error of 2^63 / frequency, rounded up, is below 2^12, and times a
// state below 2^44.
constexpr int kReciprocalBits = 63;
__extension__ typedef unsigned __int128 Product;

std::vector<uint64_t> reciprocals() {
  std::vector<uint64_t> found(kRansTotal + 1);
  for (uint64_t frequency = 1; frequency <= kRansTotal; ++frequency)
    found[frequency] = ((uint64_t{1} << kReciprocalBits) + frequency - 1) / frequency;
  return found;
}

}  // namespace

RansTables::RansTables(const RansFrequencies& frequencies)
    : symbols(frequencies.symbols),
      symbol((static_cast<size_t>(frequencies.classes) << kRansBits) + 3),
      interval(intervals_of(frequencies)) {
  uint8_t* slot = symbol.data();
  for (int64_t i = 0; i < frequencies.classes * symbols; ++i)
    slot = std::fill_n(slot, frequencies.data[i], static_cast<uint8_t>(i % symbols));
}

namespace {

template <class T>
T largest_of(const T* numbers, int64_t count) {
  T most = 0;  // in one pass that vectorises
  for (int64_t i = 0; i < count; ++i) most = std::max(most, numbers[i]);
  return most;
}

}  // namespace

uint8_t largest(const uint8_t* numbers, int64_t count) {
  return largest_of(numbers, count);
}
uint16_t largest(const uint16_t* numbers, int64_t count) {
  return largest_of(numbers, count);
}

void put_words(const std::vector<uint16_t>& words, uint8_t* bytes) {
  for (const uint16_t word : words) {
    *bytes++ = static_cast<uint8_t>(word);
    *bytes++ = static_cast<uint8_t>(word >> 8);
  }
}

std::vector<uint16_t> get_words(const uint8_t* bytes, int64_t count) {
  std::vector<uint16_t> words(static_cast<size_t>(count) + kRansLanes);
  for (int64_t i = 0; i < count; ++i, bytes += 2)
    words[static_cast<size_t>(i)] = static_cast<uint16_t>(bytes[0] | bytes[1] << 8);
  return words;
}

bool rans_encode(const RansFrequencies& frequencies, const uint8_t* symbols, const uint16_t* classes,
                 int64_t count, RansStream& stream) {
  static const std::vector<uint64_t> reciprocal = reciprocals();
  const std::vector<uint32_t> intervals = intervals_of(frequencies);
  std::fill_n(stream.states, kRansLanes, kRansLow);
  // Backwards from the last symbol, words likewise: a symbol gives at most one.
  std::vector<uint16_t> reversed(static_cast<size_t>(count) + 1);
  uint16_t* word = reversed.data();
  for (int64_t i = count; i-- > 0;) {
    const uint32_t interval = intervals[static_cast<size_t>(classes[i] * frequencies.symbols + symbols[i])];
    const uint32_t start = interval >> 16, frequency = interval & 0xffff;
    if (frequency == 0) return false;
    uint32_t state = stream.states[i % kRansLanes];
    *word = static_cast<uint16_t>(state);
    const bool full = state >> (32 - kRansBits) >= frequency;
    word += full;
    state = full ? state >> 16 : state;
    const auto quotient = static_cast<uint32_t>(Product{state} * reciprocal[frequency] >> kReciprocalBits);
    stream.states[i % kRansLanes] = state + quotient * (kRansTotal - frequency) + start;
  }
  const auto words = word - reversed.data();
  stream.words.assign(reversed.rend() - words, reversed.rend());
  return true;
}

bool rans_decode(const RansTables& tables, const uint16_t* classes, int64_t count, RansReader& reader,
                 uint8_t* symbols) {
  return kernels().coder->rans_decode(tables, classes, count, reader, symbols);
}

bool rans_finished(const RansReader& reader) {
  return reader.position == reader.count &&
         std::all_of(reader.states, reader.states + kRansLanes, [](uint32_t x) { return x == kRansLow; });
}

}  // namespace denoise_ext::cpu
