// Entropy coding by range asymmetric numeral systems (Duda 2013), 16 states interleaved.
//
// Symbol i belongs to state i % 16. Every symbol has a class, whose frequencies sum to 2^12. Between symbols
// a state is in [2^16, 2^32). It gives 16-bit words to the stream where it would leave that range. All is
// arithmetic of whole numbers: each machine makes the same bytes.
#pragma once

#include <cstdint>
#include <vector>

namespace denoise_ext::cpu {

constexpr int kRansLanes = 16;
constexpr int kRansBits = 12;
constexpr uint32_t kRansTotal = 1u << kRansBits;
constexpr uint32_t kRansLow = 1u << 16;  // least value of a state, and its first one
constexpr int kRansSymbols = 256;        // most symbols of a class

// Frequencies (classes, symbols) of whole numbers >= 0.
struct RansFrequencies {
  const int16_t* data;
  int64_t classes, symbols;
};

// What is wrong with them; nullptr: nothing.
const char* frequencies_fault(const RansFrequencies& frequencies);

// A stream: the first state of each lane, the words in the order of the decoder.
struct RansStream {
  uint32_t states[kRansLanes];
  std::vector<uint16_t> words;
};

// What a decoder looks up: the symbol of a class by the low 12 bits of a state, and the interval of a
// symbol, its start in the upper and its frequency in the lower 16 bits.
struct RansTables {
  explicit RansTables(const RansFrequencies& frequencies);

  int64_t symbols;
  std::vector<uint8_t> symbol;     // (classes, 2^12), and 3 bytes more: 4 are read at once
  std::vector<uint32_t> interval;  // (classes, symbols)
};

// The largest of numbers >= 0; 0 for none.
uint8_t largest(const uint8_t* numbers, int64_t count);
uint16_t largest(const uint16_t* numbers, int64_t count);

// Words as bytes, the lower one first.  Those read are followed by kRansLanes words of 0.
void put_words(const std::vector<uint16_t>& words, uint8_t* bytes);
std::vector<uint16_t> get_words(const uint8_t* bytes, int64_t count);

// False where a symbol has no frequency in its class; classes and symbols are in range.
bool rans_encode(const RansFrequencies& frequencies, const uint8_t* symbols, const uint16_t* classes,
                 int64_t count, RansStream& stream);

// Reads a stream; its words are followed by kRansLanes words more, of any value.
struct RansReader {
  uint32_t states[kRansLanes];
  const uint16_t* words;
  int64_t count, position;
};

// Decodes `count` symbols of the given classes, which are in range. False for a stream that is too short.
bool rans_decode(const RansTables& tables, const uint16_t* classes, int64_t count, RansReader& reader,
                 uint8_t* symbols);

// Whether all was read and every state is back at its start, as after the last symbol of a sound stream.
bool rans_finished(const RansReader& reader);

}  // namespace denoise_ext::cpu
