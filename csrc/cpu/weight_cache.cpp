#include "weight_cache.h"

#include <algorithm>
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
// Weights that are not kept, but have been seen: so many places, each for some of the keys.
constexpr size_t kPlaces = 64, kWays = 4;
// Calls with the same bits after which a transform is kept; twice as many after each time that it was in
// vain.
constexpr int kPatience = 2, kMostPatience = 1 << 16;
constexpr uint64_t kPrime = 0x9e3779b97f4a7c15;  // 2^64 / golden ratio: odd, and its bits are mixed
constexpr std::align_val_t kAlignment{64};

struct Entry {
  std::vector<unsigned char> original;
  std::shared_ptr<const float> transformed;
  size_t bytes;  // of both
  mutable std::atomic<int64_t> last_use{0};
};

struct Candidate {
  uint64_t key, bits;
  int calls, patience;
  int64_t last_call;
};

int64_t element_bytes(DType dtype) {
  switch (dtype) {
    case DType::kFloat64: return 8;
    case DType::kFloat32: return 4;
    case DType::kUInt8: return 1;
    default: return 2;
  }
}

// Bytes from a tensor's first element to the end of its last, or 0 where these are not as many as its
// elements.
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
  // Sets `entry` to that of `key`, or nullptr; false: another thread is here.
  bool find(const WeightKey& key, std::shared_ptr<const Entry>& entry) {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock) return false;
    ++lookups_;
    const auto found = entries_.find(key);
    if (found == entries_.end()) return true;
    found->second->last_use = lookups_;
    entry = found->second;
    return true;
  }

  // Counts a call with these bits, and drops `stale`, an entry of other bits. True if there have been enough
  // such calls to keep the transform, and there is room for so many bytes.
  bool is_wanted(const WeightKey& key, const std::shared_ptr<const Entry>& stale, uint64_t bits,
                 size_t bytes) {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock) return false;
    Candidate& candidate = candidate_of(fingerprint(key.data(), sizeof key));
    const auto found = entries_.find(key);
    if (found != entries_.end() && found->second == stale) {
      erase(found);
      candidate.patience = std::min(2 * candidate.patience, kMostPatience);
    }
    if (candidate.bits != bits) candidate.calls = 0;
    candidate.bits = bits;
    return ++candidate.calls >= candidate.patience && make_room(bytes);
  }

  void put(const WeightKey& key, const std::shared_ptr<Entry>& entry) {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock || !make_room(entry->bytes)) return;
    entry->last_use = lookups_;
    if (entries_.emplace(key, entry).second) bytes_ += entry->bytes;
  }

  size_t bytes() const { return bytes_; }

  void clear() {
    const std::lock_guard lock(mutex_);
    entries_.clear();
    bytes_ = 0;
    candidates_ = {};
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

  // That of `key`, or a new one in the place of what has not been called for longest.
  Candidate& candidate_of(uint64_t key) {
    auto& ways = candidates_[(key >> 32) % kPlaces];
    auto found = std::find_if(ways.begin(), ways.end(), [&](const Candidate& c) { return c.key == key; });
    if (found == ways.end()) {
      found = std::min_element(ways.begin(), ways.end(), [](const Candidate& a, const Candidate& b) {
        return a.last_call < b.last_call;
      });
      *found = {key, 0, 0, kPatience, 0};
    }
    found->last_call = lookups_;
    return *found;
  }

  // On the way of a call it is only tried: the call does without the cache rather than wait.
  std::mutex mutex_;
  Entries entries_;
  std::array<std::array<Candidate, kWays>, kPlaces> candidates_{};
  std::atomic<size_t> bytes_ = 0;
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

// Made of a copy: the weight may change in the meantime, and what is compared later must be what was
// transformed.
std::shared_ptr<Entry> make_entry(const Tensor4& weight, size_t original, size_t transformed,
                                  const std::function<void(void* bits, float* to)>& transform) {
  const auto entry = std::make_shared<Entry>();
  const auto* bytes = static_cast<const unsigned char*>(weight.data);
  entry->original.assign(bytes, bytes + original);
  const std::shared_ptr<float> to = allocate(transformed);
  transform(entry->original.data(), to.get());
  entry->transformed = to;
  entry->bytes = original + transformed;
  return entry;
}

}  // namespace

std::shared_ptr<const float> kept_weight(const WeightKey& key, const Tensor4& weight, int64_t elements,
                                         const std::function<void(void* bits, float* to)>& transform) {
  const size_t original = dense_bytes(weight), transformed = static_cast<size_t>(elements) * sizeof(float);
  if (original == 0 || transformed > kLargestTransform) return nullptr;
  try {
    std::shared_ptr<const Entry> found;
    if (!cache().find(key, found)) return nullptr;
    if (found && std::memcmp(found->original.data(), weight.data, original) == 0) return found->transformed;
    const uint64_t bits = fingerprint(weight.data, original);
    if (!cache().is_wanted(key, found, bits, original + transformed)) return nullptr;
    const std::shared_ptr<Entry> entry = make_entry(weight, original, transformed, transform);
    cache().put(key, entry);
    return entry->transformed;
  } catch (const std::bad_alloc&) {
    return nullptr;  // the caller may have memory that is enough
  }
}

int64_t kept_weight_bytes() {
  return static_cast<int64_t>(cache().bytes());
}

void forget_kept_weights() {
  cache().clear();
}

}  // namespace denoise_ext::cpu
