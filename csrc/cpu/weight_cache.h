// Transformed weights, kept from call to call for as long as the weight stays what it was.
//
// A layer that is called once per small image has its weight transformed each time: at 64x64 pixels and 64
// channels that is a fifth of the call, more where caches are cold. No counter changes with the weight
// (`.data`, NumPy and other processes write into its memory), so the cache has a copy of the weight's bits
// and compares them all, which takes a fortieth of the transform.
//
// Training changes its weights with every step, and gradients have theirs in passing memory: a transform is
// kept from a weight's second call on, and from a later one where keeping it was in vain before.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>

#include "../params/types.h"

namespace denoise_ext::cpu {

// What a transform's result depends on besides the weight's bits: where these are, and all that has been
// asked for.
using WeightKey = std::array<int64_t, 16>;

// The transform of `weight`, `elements` floats aligned to 64 bytes, which transform(bits, to) computes from
// the weight's bits at another place; or nullptr where it is not kept (yet): then the caller transforms into
// memory of its own. Any thread may call it at any time.
std::shared_ptr<const float> kept_weight(const WeightKey& key, const Tensor4& weight, int64_t elements,
                                         const std::function<void(void* bits, float* to)>& transform);

// Bytes that copies and transforms take now.
int64_t kept_weight_bytes();

// As if no weight had been seen before.
void forget_kept_weights();

}  // namespace denoise_ext::cpu
