// Between pixels whose channels lie side by side and one plane per channel.

// to[c] = channel c of kLanes pixels; from[pixel][channel].
template <int kCount>
DENOISE_EXT_INLINE void deinterleave_channels(const float* from, Vec<float> (&to)[kCount]) {
  constexpr int kLane = kLanes<float>;
#pragma GCC unroll 4
  for (int c = 0; c < kCount; ++c) {
    Vec<float> plane = load(from);
#pragma GCC unroll 4
    for (int k = 1; k < kCount; ++k) {  // takes what lies in vector k, and with the first what lies in 0
      Vec<int32_t> pick;
#pragma GCC unroll 16
      for (int i = 0; i < kLane; ++i) {
        const int place = kCount * i + c, vector = place / kLane;
        pick[i] = vector == k ? kLane + place % kLane : (k == 1 && vector == 0 ? place : i);
      }
      plane = shuffle(plane, load(from + k * kLane), pick);
    }
    to[c] = plane;
  }
}

// The way back.
template <int kCount>
DENOISE_EXT_INLINE void interleave_channels(const Vec<float> (&from)[kCount], float* to) {
  constexpr int kLane = kLanes<float>;
#pragma GCC unroll 4
  for (int v = 0; v < kCount; ++v) {
    Vec<float> pixels = from[0];
#pragma GCC unroll 4
    for (int k = 1; k < kCount; ++k) {  // takes channel k, and with the first channel 0
      Vec<int32_t> pick;
#pragma GCC unroll 16
      for (int i = 0; i < kLane; ++i) {
        const int place = v * kLane + i, channel = place % kCount, pixel = place / kCount;
        pick[i] = channel == k ? kLane + pixel : (k == 1 && channel == 0 ? pixel : i);
      }
      pixels = shuffle(pixels, from[k], pick);
    }
    store(to + v * kLane, pixels);
  }
}
