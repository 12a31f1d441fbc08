// Weights for Winograd convolution: U = G g G^T, in double and rounded once.

// Element (y, x) of a phase's kernel from `channel` to `filter`; zero for the filters that fill up a vector.
DENOISE_EXT_INLINE double winograd_weight(const WinogradPackPlan& plan, const WinogradPhase& phase,
                                          int64_t filter, int64_t channel, int y, int x) {
  const int row = phase.index[0][y], col = phase.index[1][x];
  if (filter >= plan.filters || row < 0 || col < 0) return 0;
  const Tensor4& w = plan.weight;
  const int64_t first = plan.transposed ? channel : filter, second = plan.transposed ? filter : channel;
  const int64_t at = first * w.stride[0] + second * w.stride[1] + row * w.stride[2] + col * w.stride[3];
  switch (w.dtype) {
    case DType::kBFloat16: return load_as<double>(static_cast<const BFloat16*>(w.data)[at]);
    case DType::kFloat16: return load_as<double>(static_cast<const Float16*>(w.data)[at]);
    default: return load_as<double>(static_cast<const float*>(w.data)[at]);
  }
}

// One vector of filters, at one channel; points are point_stride apart.
template <class W>
void winograd_pack_slice(const WinogradPackPlan& plan, const WinogradPhase& phase, int64_t filter,
                         int64_t channel, float* to, int64_t point_stride) {
  constexpr int n = W::kPoints, kWide = kLanes<double>;
  Vec<double> g[3][3], columns[3][n];
  for (int lane = 0; lane < kWide; ++lane)
    for (int y = 0; y < 3; ++y)
      for (int x = 0; x < 3; ++x) g[y][x][lane] = winograd_weight(plan, phase, filter + lane, channel, y, x);
  for (int x = 0; x < 3; ++x) {
    const Vec<double> column[3] = {g[0][x], g[1][x], g[2][x]};
    W::filter(column, columns[x]);
  }
  for (int i = 0; i < n; ++i) {
    const Vec<double> row[3] = {columns[0][i], columns[1][i], columns[2][i]};
    Vec<double> u[n];
    W::filter(row, u);
    for (int j = 0; j < n; ++j)
      for (int lane = 0; lane < kWide; ++lane)
        to[(i * n + j) * point_stride + lane] = static_cast<float>(u[j][lane]);
  }
}

template <class W>
void winograd_pack(const WinogradPackPlan& plan, int64_t channel) {
  constexpr int64_t points = W::kPoints * W::kPoints;
  float* block_begin = plan.to;
  for (const WinogradPhase& phase : plan.phases.phases)
    for (const ChannelBlock& block : plan.blocks) {
      const int64_t width = block.vectors * static_cast<int64_t>(kLanes<float>);
      float* to = block_begin + channel * width;
      for (int64_t k = 0; k < width; k += kLanes<double>)
        winograd_pack_slice<W>(plan, phase, block.first + k, channel, to + k, plan.channels * width);
      block_begin += width * points * plan.channels;
    }
}
