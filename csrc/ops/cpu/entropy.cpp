// torch.ops.denoise_ext.rans_encode, rans_decode, latents_encode and latents_decode: entropy coding on the
// CPU.
#include <algorithm>
#include <cstring>

#include "../../cpu/latents.h"
#include "../../cpu/rans.h"
#include "../device.h"
#include "../register.h"
#include "../results.h"

namespace denoise_ext::ops {
namespace {

// The memory of a dense tensor of one dtype.
template <class T>
const T* dense(const Tensor& tensor, ScalarType type, int64_t dim, const char* op, const char* argument) {
  check_dim(tensor, dim, op, argument);
  STD_TORCH_CHECK(tensor.scalar_type() == type, op, ": ", argument, " has dtype number ",
                  static_cast<int>(tensor.scalar_type()), "; allowed is number ", static_cast<int>(type));
  STD_TORCH_CHECK(tensor.is_contiguous(), op, ": ", argument, " must be contiguous");
  return static_cast<const T*>(memory_of(tensor, Access::kRead));
}

Tensor bytes_of(const Tensor& like, int64_t size) {
  return torch::stable::new_empty(like, {&size, 1}, ScalarType::Byte);
}

cpu::RansFrequencies checked_frequencies(const Tensor& frequencies, const char* op) {
  const auto* data = dense<int16_t>(frequencies, ScalarType::Short, 2, op, "frequencies");
  const cpu::RansFrequencies found{data, frequencies.size(0), frequencies.size(1)};
  const char* fault = cpu::frequencies_fault(found);
  STD_TORCH_CHECK(fault == nullptr, op, ": frequencies ", fault);
  return found;
}

const uint16_t* checked_classes(const Tensor& classes, const cpu::RansFrequencies& frequencies,
                                const char* op) {
  const auto* data =
      reinterpret_cast<const uint16_t*>(dense<int16_t>(classes, ScalarType::Short, 1, op, "classes"));
  const auto most = static_cast<int16_t>(cpu::largest(data, classes.size(0)));
  STD_TORCH_CHECK(most >= 0 && most < frequencies.classes, op, ": classes must be in [0, ",
                  frequencies.classes, "), got ", most);
  return data;
}

constexpr int64_t kStateBytes = 4 * cpu::kRansLanes;

template <class Device>
Tensor rans_encode(const Tensor& symbols, const Tensor& classes, const Tensor& frequencies) {
  constexpr const char* kOp = "rans_encode";
  const cpu::RansFrequencies table = checked_frequencies(frequencies, kOp);
  const uint16_t* kinds = checked_classes(classes, table, kOp);
  const auto* data = dense<uint8_t>(symbols, ScalarType::Byte, 1, kOp, "symbols");
  const int64_t count = symbols.size(0);
  check_sizes(classes, {count}, kOp, "classes");
  const uint8_t most = cpu::largest(data, count);
  STD_TORCH_CHECK(most < table.symbols, kOp, ": symbols must be below ", table.symbols, ", got ",
                  static_cast<int>(most));
  cpu::RansStream stream;
  STD_TORCH_CHECK(cpu::rans_encode(table, data, kinds, count, stream), kOp,
                  ": symbols must have a frequency above 0 in their class");
  const auto words = static_cast<int64_t>(stream.words.size());
  Tensor result = bytes_of(symbols, kStateBytes + 2 * words);
  auto* bytes = static_cast<uint8_t*>(memory_of(result, Access::kWrite));
  for (const uint32_t state : stream.states)
    for (int shift = 0; shift < 32; shift += 8) *bytes++ = static_cast<uint8_t>(state >> shift);
  cpu::put_words(stream.words, bytes);
  return result;
}

template <class Device>
Tensor rans_decode(const Tensor& data, const Tensor& classes, const Tensor& frequencies) {
  constexpr const char* kOp = "rans_decode";
  const cpu::RansFrequencies table = checked_frequencies(frequencies, kOp);
  const uint16_t* kinds = checked_classes(classes, table, kOp);
  const auto* bytes = dense<uint8_t>(data, ScalarType::Byte, 1, kOp, "data");
  STD_TORCH_CHECK(data.size(0) >= kStateBytes && data.size(0) % 2 == 0, kOp,
                  ": data must have an even number of bytes, ", kStateBytes, " at least, got ", data.size(0));
  cpu::RansReader reader{};
  for (uint32_t& state : reader.states)
    for (int shift = 0; shift < 32; shift += 8) state |= static_cast<uint32_t>(*bytes++) << shift;
  reader.count = (data.size(0) - kStateBytes) / 2;
  const std::vector<uint16_t> words = cpu::get_words(bytes, reader.count);
  reader.words = words.data();
  Tensor symbols = bytes_of(data, classes.size(0));
  auto* made = static_cast<uint8_t*>(memory_of(symbols, Access::kWrite));
  STD_TORCH_CHECK(cpu::rans_decode(cpu::RansTables(table), kinds, classes.size(0), reader, made) &&
                      cpu::rans_finished(reader),
                  kOp, ": data is not of these classes and frequencies");
  return symbols;
}

cpu::LatentModel checked_model(const Tensor& weights, const Tensor& first, const Tensor& inside,
                               const Tensor& frequencies, const char* op) {
  cpu::LatentModel model{};
  model.weights = dense<int16_t>(weights, ScalarType::Short, 3, op, "weights");
  model.channels = weights.size(1);
  STD_TORCH_CHECK(model.channels > 0 && model.channels % cpu::kRansLanes == 0 && model.channels <= 4096, op,
                  ": weights must be of channels in multiples of ", cpu::kRansLanes, ", at most 4096, got ",
                  model.channels);
  check_sizes(weights, {cpu::kContexts, model.channels, 2 * model.channels}, op, "weights");
  model.first = dense<int32_t>(first, ScalarType::Int, 1, op, "first");
  check_sizes(first, {2 * model.channels}, op, "first");
  model.inside = dense<int32_t>(inside, ScalarType::Int, 2, op, "inside");
  check_sizes(inside, {cpu::kNeighbours, 2 * model.channels}, op, "inside");
  model.frequencies = checked_frequencies(frequencies, op);
  check_sizes(frequencies, {cpu::kOffsets * cpu::kScales, cpu::kLatentSymbols}, op, "frequencies");
  const char* fault = cpu::model_fault(model);
  STD_TORCH_CHECK(fault == nullptr, op, ": weights ", fault);
  return model;
}

template <class Device>
Tensor latents_encode(const Tensor& latents, const Tensor& weights, const Tensor& first, const Tensor& inside,
                      const Tensor& frequencies) {
  constexpr const char* kOp = "latents_encode";
  const cpu::LatentModel model = checked_model(weights, first, inside, frequencies, kOp);
  const auto* data = dense<int16_t>(latents, ScalarType::Short, 3, kOp, "latents");
  check_sizes(latents, {latents.size(0), latents.size(1), model.channels}, kOp, "latents");
  const std::vector<uint8_t> bytes = cpu::encode_latents(model, data, latents.size(0), latents.size(1));
  STD_TORCH_CHECK(!bytes.empty(), kOp, ": frequencies must be above 0 for every symbol of a class");
  Tensor result = bytes_of(latents, static_cast<int64_t>(bytes.size()));
  std::memcpy(memory_of(result, Access::kWrite), bytes.data(), bytes.size());
  return result;
}

template <class Device>
Tensor latents_decode(const Tensor& data, int64_t rows, int64_t columns, const Tensor& weights,
                      const Tensor& first, const Tensor& inside, const Tensor& frequencies) {
  constexpr const char* kOp = "latents_decode";
  const cpu::LatentModel model = checked_model(weights, first, inside, frequencies, kOp);
  const auto* bytes = dense<uint8_t>(data, ScalarType::Byte, 1, kOp, "data");
  STD_TORCH_CHECK(rows > 0 && columns > 0 && rows <= 4096 && columns <= 4096, kOp,
                  ": rows and columns must be in [1, 4096], got ", rows, " and ", columns);
  const std::array<int64_t, 3> sizes{rows, columns, model.channels};
  Tensor latents = torch::stable::new_empty(data, {sizes.data(), sizes.size()}, ScalarType::Short);
  const char* fault = cpu::decode_latents(model, bytes, data.size(0), rows, columns,
                                          static_cast<int16_t*>(memory_of(latents, Access::kWrite)));
  STD_TORCH_CHECK(fault == nullptr, kOp, ": data ", fault);
  return latents;
}

}  // namespace
}  // namespace denoise_ext::ops

DENOISE_EXT_SCHEMAS(m) {
  m.def("rans_encode(Tensor symbols, Tensor classes, Tensor frequencies) -> Tensor");
  m.def("rans_decode(Tensor data, Tensor classes, Tensor frequencies) -> Tensor");
  m.def(
      "latents_encode(Tensor latents, Tensor weights, Tensor first, Tensor inside, Tensor frequencies) -> "
      "Tensor");
  m.def(
      "latents_decode(Tensor data, int rows, int columns, Tensor weights, Tensor first, Tensor inside, "
      "Tensor frequencies) -> Tensor");
}

DENOISE_EXT_REGISTER_FOR_(CPU, rans_encode, Cpu)
DENOISE_EXT_REGISTER_FOR_(CPU, rans_decode, Cpu)
DENOISE_EXT_REGISTER_FOR_(CPU, latents_encode, Cpu)
DENOISE_EXT_REGISTER_FOR_(CPU, latents_decode, Cpu)
