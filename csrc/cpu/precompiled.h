// The headers of the standard library that the files of csrc/cpu include. setup.py compiles them once, and
// starts every file with the result. Each file still includes what it uses, and compiles without this one.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>
