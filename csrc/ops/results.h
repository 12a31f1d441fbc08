// Checks on tensors of the caller's that an operator writes into.
#pragma once

#include <initializer_list>

#include "common.h"

namespace denoise_ext::ops {

// What an operator writes or reads, under its argument's name. No data: not given.
struct NamedView {
  const char* name;
  Tensor4 view;
};
NamedView named(const char* name, const Tensor1& view);

// Raises where two elements of `result` share memory, or where it shares any with one of `others`.
void check_no_overlap(const NamedView& result, std::initializer_list<NamedView> others, const char* op);

// Whether both are the same elements in the same places.
bool is_same_view(const Tensor4& a, const Tensor4& b);

// An argument, given or not.
struct NamedTensor {
  NamedTensor(const char* name, const Tensor& tensor) : name(name), tensor(&tensor) {}
  NamedTensor(const char* name, const std::optional<Tensor>& tensor)
      : name(name), tensor(tensor.has_value() ? &*tensor : nullptr) {}

  const char* name;
  const Tensor* tensor;  // nullptr: not given
};

// As torch does for out=: raises where gradients are recorded and a tensor takes part in them.
void check_no_gradients(std::initializer_list<NamedTensor> tensors, const char* op);

// Counts a change of `result` made in place, so that autograd notices it.
void count_change(const Tensor& result);

}  // namespace denoise_ext::ops
