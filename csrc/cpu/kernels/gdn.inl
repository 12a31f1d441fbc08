// Generalised divisive normalisation (gdn.h): squares, their product with the weight as in Winograd's
// algorithm, and the root, for a piece of a row that stays in the caches.

struct NoPrefetch {
  DENOISE_EXT_INLINE void advance() {}
};

template <class Storage>
void gdn_finish(const GdnPlan& plan, const OutputSpan& span, const ChannelBlock& block, const float* sums,
                float* pixels) {
  constexpr int kWide = kLanes<float>;
  pixels += block.first;
  for (int v = 0; v < block.vectors; ++v) {
    const Vec<float> bias = load(plan.bias + block.first + v * kWide);
    for (int64_t p = 0; p < span.pixels; ++p) {
      float* at = pixels + p * plan.width + v * kWide;  // no other block reads it
      const Vec<float> x = load(at), norm = root(load(sums + (v * plan.piece + p) * kWide) + bias);
      store(at, plan.inverse ? x * norm : x / norm);
    }
  }
  store_span<Storage, float>(plan.conv.output, span, plan.width, pixels);
}

void gdn_piece(const GdnPlan& plan, int64_t task, void* scratch) {
  constexpr int kWide = kLanes<float>;
  const Tensor4& input = plan.conv.input;
  const int64_t row = task / plan.pieces_per_row, x0 = (task - row * plan.pieces_per_row) * plan.piece;
  const int64_t n = row / input.size[2], y = row - n * input.size[2];
  const int64_t left = input.size[3] - x0, count = left < plan.piece ? left : plan.piece;
  float* pixels = static_cast<float*>(scratch);
  float* squares = pixels + plan.squares_offset;
  float* sums = pixels + plan.sums_offset;
  pack<float>(input, {n, y, 1, x0, count, 0, plan.channels, 1}, {count, plan.width}, pixels);
  // Behind the channels of a pixel there is nothing to be read, but something to be multiplied.
  for (int64_t p = 0; p < count && plan.channels < plan.width; ++p)
    for (int64_t c = plan.channels; c < plan.width; ++c) pixels[p * plan.width + c] = 0.0f;
  const int64_t step = plan.piece * kWide;  // squares and sums are [vector][pixel][lane]
  for (int64_t p = 0; p < count; ++p)
    for (int64_t c = 0; c < plan.width; c += kWide) {
      const Vec<float> x = load(pixels + p * plan.width + c);
      store(squares + c * plan.piece + p * kWide, x * x);
    }
  const float* u = plan.weight;
  const WinogradRun run{0, plan.channels, 0, 0};
  NoPrefetch prefetch;
  for (const ChannelBlock& block : plan.blocks) {
    const int64_t width = block.vectors * static_cast<int64_t>(kWide);
    winograd_products_of<kWide>(block.vectors, count, squares, step, u, plan.channels * width, &run, &run + 1,
                                sums, prefetch);
    u += plan.channels * width;
    const int64_t channels = plan.channels - block.first < width ? plan.channels - block.first : width;
    const OutputSpan span{n, block.first, y, x0, 1, count, channels};
    switch (plan.conv.output.dtype) {
      case DType::kBFloat16: gdn_finish<BFloat16>(plan, span, block, sums, pixels); break;
      case DType::kFloat16: gdn_finish<Float16>(plan, span, block, sums, pixels); break;
      default: gdn_finish<float>(plan, span, block, sums, pixels);
    }
  }
}
