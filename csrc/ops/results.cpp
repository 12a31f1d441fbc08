#include "results.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <algorithm>

namespace denoise_ext::ops {
namespace {

// A step in bytes that is taken `low` to `high` times.
struct Term {
  int64_t step, low, high;
};

// At most the terms of two tensors and of the bytes of their elements.
struct Terms {
  std::array<Term, 10> list{};
  size_t count = 0;

  void add(int64_t step, int64_t low, int64_t high) {
    if (step != 0 && low != high) list[count++] = {step, low, high};
  }
};

int64_t element_bytes(DType dtype) {
  switch (dtype) {
    case DType::kFloat64: return 8;
    case DType::kFloat32: return 4;
    case DType::kUInt8: return 1;
    default: return 2;
  }
}

// Sums of multiples that the search may look at. Views of one buffer need a few; where this is not enough,
// tensors count as overlapping.
constexpr int kMostSteps = 10000;

// Whether some multiples of the terms from `first` on, largest step first, add up to `target`.
bool reachable(const Terms& terms, size_t first, int64_t target, int& steps) {
  if (first == terms.count) return target == 0;
  int64_t low = 0, high = 0;  // what the smaller steps can add
  for (size_t i = first + 1; i < terms.count; ++i) {
    low += terms.list[i].step * terms.list[i].low;
    high += terms.list[i].step * terms.list[i].high;
  }
  const Term& term = terms.list[first];
  // step * n in [target - high, target - low]
  const auto divide_down = [](int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); };
  const int64_t from = std::max(term.low, -divide_down(high - target, term.step));
  const int64_t until = std::min(term.high, divide_down(target - low, term.step));
  for (int64_t n = from; n <= until; ++n) {
    if (++steps > kMostSteps) return true;
    if (reachable(terms, first + 1, target - n * term.step, steps)) return true;
  }
  return false;
}

bool reachable(Terms terms, int64_t target) {
  std::sort(terms.list.begin(), terms.list.begin() + static_cast<std::ptrdiff_t>(terms.count),
            [](const Term& a, const Term& b) { return a.step > b.step; });
  int steps = 0;
  return reachable(terms, 0, target, steps);
}

bool is_empty(const Tensor4& view) {
  return view.data == nullptr || std::find(view.size, view.size + 4, 0) != view.size + 4;
}

// Bytes from the first element's begin to the last one's end. An expanded tensor's sizes say little, so that
// they are only multiplied by strides of memory that exists.
int64_t extent_bytes(const Tensor4& view) {
  int64_t elements = 1;
  for (int d = 0; d < 4; ++d) elements += (view.size[d] - 1) * view.stride[d];
  return elements * element_bytes(view.dtype);
}

bool overlap(const Tensor4& a, const Tensor4& b) {
  if (is_empty(a) || is_empty(b)) return false;
  const auto begin_a = reinterpret_cast<intptr_t>(a.data), begin_b = reinterpret_cast<intptr_t>(b.data);
  if (begin_a + extent_bytes(a) <= begin_b || begin_b + extent_bytes(b) <= begin_a) return false;
  // An element of a and one of b share a byte: sum of i_d stride_a - sum of j_d stride_b = b - a.
  const int64_t bytes_a = element_bytes(a.dtype), bytes_b = element_bytes(b.dtype);
  Terms terms;
  for (int d = 0; d < 4; ++d) {
    const int64_t step_a = a.stride[d] * bytes_a, step_b = b.stride[d] * bytes_b;
    if (step_a == step_b) {
      terms.add(step_a, 1 - b.size[d], a.size[d] - 1);
    } else {
      terms.add(step_a, 0, a.size[d] - 1);
      terms.add(step_b, 1 - b.size[d], 0);
    }
  }
  terms.add(1, 1 - bytes_b, bytes_a - 1);
  return reachable(terms, begin_b - begin_a);
}

bool overlaps_itself(const Tensor4& view) {
  if (is_empty(view)) return false;
  std::array<Term, 4> axes{};
  size_t count = 0;
  for (int d = 0; d < 4; ++d)
    if (view.size[d] > 1) axes[count++] = {view.stride[d], 1 - view.size[d], view.size[d] - 1};
  std::sort(axes.begin(), axes.begin() + static_cast<std::ptrdiff_t>(count),
            [](const Term& a, const Term& b) { return a.step < b.step; });
  bool nested = true;  // every step is longer than all the smaller ones together
  int64_t reach = 0;
  for (size_t i = 0; i < count; ++i) {
    nested = nested && axes[i].step > reach;
    reach += axes[i].step * axes[i].high;
  }
  if (nested) return false;
  // Two elements whose indices differ, first in axis i: the other axes make up for a difference in it.
  for (size_t i = 0; i < count; ++i) {
    if (axes[i].step == 0) return true;
    Terms terms;
    terms.add(axes[i].step, 1, axes[i].high + 1);
    for (size_t j = i + 1; j < count; ++j) terms.add(axes[j].step, axes[j].low, axes[j].high);
    // The first term's range is 1 .. high; `add` drops ranges of one number, hence the one more.
    terms.list[0].high = axes[i].high;
    if (reachable(terms, 0)) return true;
  }
  return false;
}

bool requires_grad(const Tensor& tensor) {
  // Where gradients are recorded, a view of a tensor has a history if and only if the tensor has a gradient.
  std::array<StableIValue, 1> alias{torch::stable::detail::from(tensor)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::alias", "", alias.data(), TORCH_ABI_VERSION));
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::is_leaf", "", alias.data(), TORCH_ABI_VERSION));
  return !torch::stable::detail::to<bool>(alias[0]);
}

}  // namespace

NamedView named(const char* name, const Tensor1& view) {
  Tensor4 as4{const_cast<void*>(view.data), {1, 1, 1, view.size}, {0, 0, 0, view.stride}, view.dtype};
  return {name, as4};
}

bool is_same_view(const Tensor4& a, const Tensor4& b) {
  bool same = a.data == b.data && a.dtype == b.dtype;
  for (int d = 0; d < 4; ++d)
    same = same && a.size[d] == b.size[d] && (a.size[d] == 1 || a.stride[d] == b.stride[d]);
  return same;
}

void check_no_overlap(const NamedView& result, std::initializer_list<NamedView> others, const char* op) {
  STD_TORCH_CHECK(!overlaps_itself(result.view), op, ": ", result.name,
                  " must not overlap itself, got strides (", result.view.stride[0], ", ",
                  result.view.stride[1], ", ", result.view.stride[2], ", ", result.view.stride[3], ")");
  for (const NamedView& other : others)
    STD_TORCH_CHECK(!overlap(result.view, other.view), op, ": ", result.name, " must not overlap ",
                    other.name, " in memory");
}

void check_no_gradients(std::initializer_list<NamedTensor> tensors, const char* op) {
  if (!aoti_torch_grad_mode_is_enabled()) return;
  for (const auto& [name, tensor] : tensors)
    STD_TORCH_CHECK(tensor == nullptr || !requires_grad(*tensor), op, ": ", name,
                    " must not require grad: writing into a given tensor has no gradient; call it under "
                    "torch.no_grad()");
}

void count_change(const Tensor& result) {
  Tensor same = result;
  torch::stable::copy_(same, same);  // copies nothing
}

}  // namespace denoise_ext::ops
