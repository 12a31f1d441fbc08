// Which kernel a call would take, for Python's denoise_ext.ops.explain.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

namespace denoise_ext {

// `call` holds the operator's arguments by the names of its schema, and "output"; a tensor is a dict
// with "size", "stride" and "dtype". compute_capability 0 asks about the CPU.
std::string explain(const std::string& op, const pybind11::dict& call, int compute_capability);

}  // namespace denoise_ext
