#include "latents.h"

#include <cstdlib>
#include <cstring>

#include "coder_kernels.h"
#include "isa.h"

namespace denoise_ext::cpu {
namespace {

constexpr int64_t kHead = 4 + 4 * kRansLanes;  // number of words, states

void put32(std::vector<uint8_t>& bytes, uint32_t value) {
  for (int shift = 0; shift < 32; shift += 8) bytes.push_back(static_cast<uint8_t>(value >> shift));
}

uint32_t get32(const uint8_t* data) {
  return static_cast<uint32_t>(data[0]) | static_cast<uint32_t>(data[1]) << 8 |
         static_cast<uint32_t>(data[2]) << 16 | static_cast<uint32_t>(data[3]) << 24;
}

}  // namespace

void put_escape(BitWriter& bits, int32_t value) {
  const uint32_t folded = static_cast<uint32_t>(value) << 1 ^ static_cast<uint32_t>(value >> 31);
  const uint32_t number = folded + (1u << kEscapeOrder);
  const int length = 31 - __builtin_clz(number);
  bits.put(1u << (length - kEscapeOrder), length - kEscapeOrder + 1);  // zeros, then a one
  bits.put(number & ((1u << length) - 1), length);
}

bool get_escape(BitReader& bits, int32_t& value) {
  int length = kEscapeOrder;
  while (bits.get(1) == 0)
    if (++length > kMostEscapeBits) return false;
  const uint32_t folded = (1u << length | bits.get(length)) - (1u << kEscapeOrder);
  value = static_cast<int32_t>(folded >> 1 ^ (0u - (folded & 1)));
  return bits.sound();
}

const char* model_fault(const LatentModel& model) {
  if (const char* fault = frequencies_fault(model.frequencies)) return fault;
  const int64_t sums = 2 * model.channels;
  for (int64_t i = 0; i < sums; ++i) {
    int64_t largest = std::abs(static_cast<int64_t>(model.first[i]));
    for (int64_t k = 0; k < kNeighbours; ++k)
      largest += std::abs(static_cast<int64_t>(model.inside[k * sums + i]));
    for (int64_t row = 0; row < kContexts * model.channels; ++row)
      largest += kLargestContext * std::abs(static_cast<int64_t>(model.weights[row * sums + i]));
    if (largest >= INT32_MAX - (1 << kFraction)) return "have sums that may leave 32 bits";
  }
  return nullptr;
}

std::vector<uint8_t> encode_latents(const LatentModel& model, const int16_t* latents, int64_t rows,
                                    int64_t columns) {
  const auto count = static_cast<size_t>(rows * columns * model.channels);
  std::vector<uint8_t> symbols(count);
  std::vector<uint16_t> classes(count);
  std::vector<int32_t> sums(static_cast<size_t>(2 * model.channels));
  BitWriter escapes;
  const LatentSymbols found{symbols.data(), classes.data(), &escapes};
  kernels().coder->latent_symbols(model, latents, rows, columns, sums.data(), found);
  RansStream stream;
  if (!rans_encode(model.frequencies, symbols.data(), classes.data(), static_cast<int64_t>(count), stream))
    return {};
  std::vector<uint8_t> bytes;
  bytes.reserve(kHead + 2 * stream.words.size() + escapes.bytes().size());
  put32(bytes, static_cast<uint32_t>(stream.words.size()));
  for (const uint32_t state : stream.states) put32(bytes, state);
  const size_t head = bytes.size();
  bytes.resize(head + 2 * stream.words.size());
  put_words(stream.words, bytes.data() + head);
  bytes.insert(bytes.end(), escapes.bytes().begin(), escapes.bytes().end());
  return bytes;
}

const char* decode_latents(const LatentModel& model, const uint8_t* data, int64_t bytes, int64_t rows,
                           int64_t columns, int16_t* latents) {
  if (bytes < kHead) return "ends too early";
  RansReader reader{};
  reader.count = get32(data);
  if (reader.count > (bytes - kHead) / 2) return "ends too early";
  for (int lane = 0; lane < kRansLanes; ++lane) reader.states[lane] = get32(data + 4 + 4 * lane);
  const std::vector<uint16_t> words = get_words(data + kHead, reader.count);
  reader.words = words.data();
  BitReader escapes(data + kHead + 2 * reader.count, bytes - kHead - 2 * reader.count);
  const RansTables tables(model.frequencies);
  std::vector<int32_t> sums(static_cast<size_t>(2 * model.channels));
  const char* fault =
      kernels().coder->decode_latents(model, tables, reader, escapes, rows, columns, sums.data(), latents);
  if (fault != nullptr) return fault;
  return rans_finished(reader) && escapes.finished() ? nullptr : "does not end where its numbers do";
}

}  // namespace denoise_ext::cpu
