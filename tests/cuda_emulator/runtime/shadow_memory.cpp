// Which memory kernels may touch: static and dynamic shared memory, and the tensors of the call.
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include "shadow.h"

namespace cuda_emulator {
namespace {

std::map<const char*, std::unique_ptr<Region>> global_regions;  // by their end
Region* last_region = nullptr;
Region dynamic_shared_region, static_shared_region;

void prepare_shared(Region& region, AddressRange range) {
  region.shared = region.writable = true;
  region.range = range;
  // Old records are harmless: no later block has their number.
  region.cells.resize(static_cast<size_t>(range.end - range.begin));
}

// A region over `range` and every known region that it touches.
Region& merged_region(AddressRange range) {
  auto region = std::make_unique<Region>();
  std::vector<std::unique_ptr<Region>> parts;
  AddressRange whole = range;
  for (auto it = global_regions.begin(); it != global_regions.end();) {
    const AddressRange other = it->second->range;
    if (other.begin >= range.end || other.end <= range.begin) {
      ++it;
      continue;
    }
    whole = {std::min(whole.begin, other.begin), std::max(whole.end, other.end)};
    parts.push_back(std::move(it->second));
    it = global_regions.erase(it);
  }
  region->range = whole;
  Cell outside{};
  outside.write.flags = kOutside;
  region->cells.assign(static_cast<size_t>(whole.end - whole.begin), outside);
  for (const auto& part : parts)
    std::copy(part->cells.begin(), part->cells.end(), region->cell(part->range.begin));
  last_region = nullptr;
  return *(global_regions[whole.end] = std::move(region));
}

// Of a tensor whose elements lie further apart, in bytes, there are records for each part alone.
constexpr int64_t kLargestSpan = int64_t{1} << 26;

// The tensor without the axis of the longest stride; `sizes` and `strides` become those of a part.
int64_t split_axis(std::vector<int64_t>& sizes, std::vector<int64_t>& strides, int64_t* stride) {
  size_t axis = 0;
  for (size_t d = 0; d < sizes.size(); ++d)
    if (sizes[d] > 1 && (sizes[axis] == 1 || std::abs(strides[d]) > std::abs(strides[axis]))) axis = d;
  const int64_t size = sizes[axis];
  *stride = strides[axis];
  sizes.erase(sizes.begin() + static_cast<std::ptrdiff_t>(axis));
  strides.erase(strides.begin() + static_cast<std::ptrdiff_t>(axis));
  return size;
}

// f(offset in elements) for every element.
template <class F>
void for_each_element(int dims, const int64_t* sizes, const int64_t* strides, int64_t offset, const F& f) {
  if (dims == 0) return f(offset);
  for (int64_t i = 0; i < sizes[0]; ++i)
    for_each_element(dims - 1, sizes + 1, strides + 1, offset + i * strides[0], f);
}

std::string neighbourhood(const char* address) {
  constexpr std::ptrdiff_t kNear = 256;
  const auto distance = [](std::ptrdiff_t bytes) { return ", " + std::to_string(bytes) + " bytes "; };
  for (const auto& [end, region] : global_regions) {
    const auto bytes = std::to_string(end - region->range.begin);
    if (region->range.contains(address)) return ", in or across the end of a tensor of " + bytes + " bytes";
    if (address >= end && address < end + kNear)
      return distance(address - end) + "past a tensor of " + bytes + " bytes";
    if (address < region->range.begin && address + kNear > region->range.begin)
      return distance(region->range.begin - address) + "before a tensor of " + bytes + " bytes";
  }
  const AddressRange& shared = dynamic_shared_region.range;
  if (address >= shared.begin && address < shared.end + 4096) return ", in or past dynamic shared memory";
  return address == nullptr ? " (address 0)" : "";
}

}  // namespace

Region& dynamic_region() {
  return dynamic_shared_region;
}

Region* find_region(const char* address) {
  if (dynamic_shared_region.range.contains(address)) return &dynamic_shared_region;
  if (static_shared_region.range.contains(address)) return &static_shared_region;
  if (last_region != nullptr && last_region->range.contains(address)) return last_region;
  const auto it = global_regions.upper_bound(address);
  if (it == global_regions.end() || address < it->second->range.begin) return nullptr;
  return last_region = it->second.get();
}

void fail_outside(const CheckedAccess& a, const char* what) {
  fail("out of bounds", std::string(a.access == Access::kRead ? "read" : "write") + " of " +
                            std::to_string(a.bytes) + " bytes " + what + " at " +
                            place_text(a.code, a.flags) + neighbourhood(a.address));
}

void begin_launch_checks() {
  const auto begin = reinterpret_cast<const char*>(machine.shared);
  prepare_shared(dynamic_shared_region, {begin, begin + machine.shared_physical_bytes});
  prepare_shared(static_shared_region, machine.static_shared);
}
void begin_block_checks() {}
void end_launch_checks() {
  dynamic_shared_region.range = {};
}

void forget_memory() {
  global_regions.clear();
  last_region = nullptr;
}

void use_memory(void* data, int dims, const int64_t* sizes, const int64_t* strides, size_t element_bytes,
                Use use) {
  int64_t first = 0, last = 0;
  for (int d = 0; d < dims; ++d) {
    if (sizes[d] == 0) return;
    (strides[d] < 0 ? first : last) += (sizes[d] - 1) * strides[d];
  }
  char* const base = static_cast<char*>(data);
  const auto bytes = static_cast<int64_t>(element_bytes);
  if ((last - first) * bytes > kLargestSpan) {
    std::vector<int64_t> part_sizes(sizes, sizes + dims), part_strides(strides, strides + dims);
    int64_t stride = 0;
    const int64_t parts = split_axis(part_sizes, part_strides, &stride);
    for (int64_t i = 0; i < parts; ++i)
      use_memory(base + i * stride * bytes, dims - 1, part_sizes.data(), part_strides.data(), element_bytes,
                 use);
    return;
  }
  Region& region = merged_region({base + first * bytes, base + (last + 1) * bytes});
  region.writable |= use != Use::kRead;
  for_each_element(dims, sizes, strides, 0, [&](int64_t offset) {
    char* const element = base + offset * bytes;
    Cell* const cells = region.cell(element);
    const bool fill = use == Use::kFill;
    // What an earlier kernel of this call has or has not written stays as it is.
    if (!fill && (cells->write.flags & kOutside) == 0) return;
    for (size_t i = 0; i < element_bytes; ++i) cells[i].write.flags = fill ? 0 : kInitialised;
    if (fill) std::memset(element, 0xff, element_bytes);
  });
}

}  // namespace cuda_emulator
