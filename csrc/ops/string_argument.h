// The type for a `str` of an operator's schema.
//
// PyTorch's own conversion of one to std::string (torch/csrc/stable/stableivalue_conversions.h of 2.13)
// returns a copy of a string that it allocates and never deletes. 32 bytes per argument and call are
// little, but they lie between the images in the heap, which then cannot use that room for the next image:
// a training run grew by megabytes a step.
#pragma once

#include <torch/csrc/stable/library.h>

#include <string>

namespace denoise_ext::ops {

struct StringArgument : std::string {
  using std::string::string;
};

}  // namespace denoise_ext::ops

template <>
struct torch::stable::detail::ToImpl<denoise_ext::ops::StringArgument> {
  static denoise_ext::ops::StringArgument call(StableIValue value, uint64_t, bool) {
    const StringHandle handle = to<StringHandle>(value);
    size_t length = 0;
    const char* data = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(torch_string_length(handle, &length));
    STABLE_TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &data));
    denoise_ext::ops::StringArgument text(data, length);
    STABLE_TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
    return text;
  }
};
