// Kernels of the CUDA build that are taken wherever they can run, whatever their estimated costs.
#pragma once

namespace denoise_ext::cuda {

constexpr int kPreferredBytes = 256;

// Names with a blank between them, for this thread from now on; nullptr or "" for none. False where they are
// longer than kPreferredBytes: then nothing changes.
bool prefer_variants(const char* names);

// Those that were set last, valid until the next prefer_variants().
const char* preferred_variants();

}  // namespace denoise_ext::cuda
