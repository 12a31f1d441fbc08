#include "weight_cache.h"

#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <vector>

namespace denoise_ext::cpu {
namespace {

// All entries together; one transform: the calls of larger weights take long enough to transform them.
constexpr size_t kLargestCache = size_t{64} << 20, kLargestTransform = size_t{8} << 20;
// Lookups since which an entry has been of no use, before it makes room for another. Many, so that a network
// with more weights than there is room for keeps some of them, instead of each driving out the next.
constexpr int64_t kUnused = 4096;
// Weights that have been seen once, and how they are told apart.
constexpr size_t kCandidates = 256;
constexpr uint64_t kPrime = 0x9e3779b97f4a7c15;  // 2^64 / golden ratio: odd, and its bits are mixed
constexpr std::align_val_t kAlignment{64};

struct Entry {
  std::vector<unsigned char> original;
  std::shared_ptr<const float> transformed;
  size_t bytes;  // of both
  mutable std::atomic<int64_t> last_use{0};
};

int64_t element_bytes(DType dtype) {
  switch (dtype) {
    case DType::kFloat64: return 8;
    case DType::kFloat32: return 4;
    case DType::kUInt8: return 1;
    default: return 2;
  }
}

// Bytes from a tensor's first element to the end of its last, or 0 where others lie between them.
size_t dense_bytes(const Tensor4& x) {
  int64_t elements = 1, last = 0;
  for (int axis = 0; axis < 4; ++axis) {
    if (x.stride[axis] < 0) return 0;
    elements *= x.size[axis];
    last += (x.size[axis] - 1) * x.stride[axis];
  }
  return last + 1 == elements ? static_cast<size_t>(elements * element_bytes(x.dtype)) : 0;
}

// The same for the same bytes. (For others, too, once in a long while: a transform is then kept too early.)
uint64_t fingerprint(const void* from, size_t bytes) {
  const auto* p = static_cast<const unsigned char*>(from);
  uint64_t lanes[4] = {bytes, 1, 2, 3};  // four multiplications at a time
  const auto mix = [](uint64_t& lane, const unsigned char* word, size_t size) {
    uint64_t value = 0;
    std::memcpy(&value, word, size);
    lane = (lane ^ value) * kPrime;
    lane ^= lane >> 32;
  };
  for (; bytes >= sizeof lanes; bytes -= sizeof lanes, p += sizeof lanes)
    for (size_t i = 0; i < 4; ++i) mix(lanes[i], p + 8 * i, 8);
  for (; bytes > 0; ++p, --bytes) mix(lanes[0], p, 1);
  for (size_t i = 1; i < 4; ++i) lanes[0] = (lanes[0] ^ lanes[i]) * kPrime;
  return lanes[0];
}

class Cache {
 public:
  // The entry of `key`, or nullptr.
  std::shared_ptr<const Entry> find(const WeightKey& key) {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock) return nullptr;
    ++lookups_;
    const auto found = entries_.find(key);
    if (found == entries_.end()) return nullptr;
    found->second->last_use = lookups_;
    return found->second;
  }

  // Notes that these bits have been asked for, and forgets what `key` has; whether it was the second time,
  // and there is room for so many bytes.
  bool is_wanted(const WeightKey& key, uint64_t bits, size_t bytes) {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock) return false;
    if (const auto found = entries_.find(key); found != entries_.end()) erase(found);
    const uint64_t seen = fingerprint(key.data(), sizeof key) ^ bits;
    uint64_t& candidate = candidates_[(seen >> 32) % kCandidates];
    const bool again = candidate == seen;
    candidate = seen;
    return again && make_room(bytes);
  }

  void put(const WeightKey& key, const std::shared_ptr<Entry>& entry) {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock || !make_room(entry->bytes)) return;
    entry->last_use = lookups_;
    if (entries_.emplace(key, entry).second) bytes_ += entry->bytes;
  }

  int64_t bytes() {
    const std::lock_guard lock(mutex_);
    return static_cast<int64_t>(bytes_);
  }

 private:
  using Entries = std::map<WeightKey, std::shared_ptr<const Entry>>;

  Entries::iterator erase(Entries::iterator entry) {
    bytes_ -= entry->second->bytes;
    return entries_.erase(entry);
  }

  bool make_room(size_t bytes) {
    if (bytes_ + bytes <= kLargestCache) return true;
    for (auto entry = entries_.begin(); entry != entries_.end();)
      entry = lookups_ - entry->second->last_use > kUnused ? erase(entry) : std::next(entry);
    return bytes_ + bytes <= kLargestCache;
  }

  // On the way of a call it is only tried: the call does without the cache rather than wait.
  std::mutex mutex_;
  Entries entries_;
  std::array<uint64_t, kCandidates> candidates_{};
  size_t bytes_ = 0;
  int64_t lookups_ = 0;
};

// Never destroyed: threads may still compute while the process ends.
Cache& cache() {
  static auto* const only = new Cache;
  return *only;
}

std::shared_ptr<float> allocate(size_t bytes) {
  return {static_cast<float*>(::operator new(bytes, kAlignment)),
          [](float* p) { ::operator delete(p, kAlignment); }};
}

}  // namespace

std::shared_ptr<const float> kept_weight(const WeightKey& key, const Tensor4& weight, int64_t elements,
                                         const std::function<void(float*)>& transform) {
  const size_t original = dense_bytes(weight), transformed = static_cast<size_t>(elements) * sizeof(float);
  if (original == 0 || transformed > kLargestTransform) return nullptr;
  const std::shared_ptr<const Entry> found = cache().find(key);
  if (found && std::memcmp(found->original.data(), weight.data, original) == 0) return found->transformed;
  const uint64_t bits = fingerprint(weight.data, original);
  if (!cache().is_wanted(key, bits, original + transformed)) return nullptr;
  const std::shared_ptr<float> to = allocate(transformed);
  transform(to.get());
  const auto entry = std::make_shared<Entry>();
  const auto* bytes = static_cast<const unsigned char*>(weight.data);
  entry->original.assign(bytes, bytes + original);
  entry->transformed = to;
  entry->bytes = original + transformed;
  cache().put(key, entry);
  return to;
}

int64_t kept_weight_bytes() {
  return cache().bytes();
}

}  // namespace denoise_ext::cpu
