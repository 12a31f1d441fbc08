// Where pixels outside an image are read from.
#pragma once

#include "../params/types.h"
#include "storage.h"

namespace denoise_ext::cpu {

// The pixel of an axis of `size` >= 1 pixels that is read for `position`; -1 stands for a zero.
DENOISE_EXT_INLINE int64_t border_index(int64_t position, int64_t size, Border border) {
  if (position >= 0 && position < size) return position;
  switch (border) {
    case Border::kConstant: return -1;
    case Border::kReplicate: return position < 0 ? 0 : size - 1;
    case Border::kCircular: {
      const int64_t remainder = position % size;
      return remainder < 0 ? remainder + size : remainder;
    }
    case Border::kReflect: {
      if (size == 1) return 0;
      const int64_t period = 2 * (size - 1);
      const int64_t folded = (position < 0 ? -position : position) % period;  // reflection is even
      return folded < size ? folded : period - folded;
    }
  }
  return -1;
}

}  // namespace denoise_ext::cpu
