// Whether PyTorch lets its own float32 convolutions round their factors to tf32. No torch here: the stable
// ABI has no function that reads this setting, so Python does.
#pragma once

namespace denoise_ext::ops {

// Called at every float32 convolution on a GPU with precision "default"; until one is set the answer is no.
void set_tf32_query(bool (*query)());

bool tf32_allowed();

}  // namespace denoise_ext::ops
