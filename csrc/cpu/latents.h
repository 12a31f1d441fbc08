// The latents of a codec: their classes by whole numbers that are decoded before, and their streams.
//
// docs/format_dxc.md has the arithmetic. Latents are (rows, columns, channels), in that order.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "rans.h"

namespace denoise_ext::cpu {

constexpr int kContexts = 5;          // above left, above, above right, left, the same place
constexpr int kNeighbours = 4;        // those of another place
constexpr int kLargestContext = 127;  // magnitudes above it count as this one
constexpr int kFraction = 10;         // bits of the sums behind the point
constexpr int32_t kLeastScale = 48, kLargestScale = 65535;
constexpr int kScales = 42;  // classes of a scale: four to an octave
constexpr int kOffsets = 5;  // of a mean from a whole number, in eighths: 0 to 4
constexpr int kCentre = 63;  // the symbol of 0; 0 to 126 are -63 to 63
constexpr int kEscape = 127;
constexpr int kLatentSymbols = 128;

// Sums of whole numbers: the first half are means, the second half scales.
struct LatentModel {
  int64_t channels;        // a multiple of kRansLanes
  const int16_t* weights;  // (kContexts, channels, 2 channels)
  const int32_t* first;    // (2 channels)
  const int32_t* inside;   // (kNeighbours, 2 channels): added where the neighbour exists
  RansFrequencies frequencies;
};

// What is wrong with a model; nullptr: nothing. Sums of a sound one stay below 2^31.
const char* model_fault(const LatentModel& model);

std::vector<uint8_t> encode_latents(const LatentModel& model, const int16_t* latents, int64_t rows,
                                    int64_t columns);

// What is wrong with the data; nullptr: nothing.
const char* decode_latents(const LatentModel& model, const uint8_t* data, int64_t bytes, int64_t rows,
                           int64_t columns, int16_t* latents);

// Bits behind the words of a stream, from the lowest of a byte on: latents without a symbol of their class.
class BitWriter {
 public:
  void put(uint32_t value, int bits) {
    for (int i = 0; i < bits; ++i, ++count_) {
      if (count_ % 8 == 0) bytes_.push_back(0);
      bytes_.back() = static_cast<uint8_t>(bytes_.back() | (value >> i & 1) << count_ % 8);
    }
  }
  const std::vector<uint8_t>& bytes() const { return bytes_; }

 private:
  std::vector<uint8_t> bytes_;
  int64_t count_ = 0;
};

class BitReader {
 public:
  BitReader(const uint8_t* data, int64_t bytes) : data_(data), bits_(8 * bytes) {}
  uint32_t get(int bits) {
    uint32_t value = 0;
    for (int i = 0; i < bits; ++i, ++position_)
      if (position_ < bits_) value |= static_cast<uint32_t>(data_[position_ / 8] >> position_ % 8 & 1) << i;
    return value;
  }
  bool sound() const { return position_ <= bits_; }
  bool finished() const { return position_ <= bits_ && bits_ - position_ < 8; }

 private:
  const uint8_t* data_;
  int64_t bits_, position_ = 0;
};

// A number by an Exp-Golomb code of order 2: 0, -1, 1, -2 ... are 0, 1, 2, 3 ...
constexpr int kEscapeOrder = 2, kMostEscapeBits = 24;
void put_escape(BitWriter& bits, int32_t value);
bool get_escape(BitReader& bits, int32_t& value);

}  // namespace denoise_ext::cpu
