// The headers of PyTorch and of the standard library that the files of csrc/ops include, which take most of
// their compilation. setup.py compiles them once, and starts every file of csrc/ops with the result. Each
// file still includes what it uses, and compiles without this one.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>
