// Weights for Winograd convolution: U = G g G^T, in double and rounded once.

// g[y][x]: element (y, x) of a phase's kernels from `channel` to one vector of filters, the first of which is
// `filter`; zero for filters past the last and for taps that the phase does not have.
template <class Storage>
DENOISE_EXT_INLINE void winograd_gather(const WinogradPackPlan& plan, const WinogradPhase& phase,
                                        int64_t filter, int64_t channel, Vec<double> g[3][3]) {
  const Tensor4& w = plan.weight;
  const int filters = plan.transposed ? 1 : 0;
  const int64_t stride = w.stride[filters], left = plan.filters - filter;
  const int lanes = left < kLanes<double> ? static_cast<int>(left) : kLanes<double>;
  const Storage* first =
      static_cast<const Storage*>(w.data) + filter * stride + channel * w.stride[1 - filters];
  for (int y = 0; y < 3; ++y)
    for (int x = 0; x < 3; ++x) {
      const int row = phase.index[0][y], col = phase.index[1][x];
      const Storage* from = first + row * w.stride[2] + col * w.stride[3];
      double values[kLanes<double>] = {};
      if (row >= 0 && col >= 0)
        for (int lane = 0; lane < lanes; ++lane) values[lane] = load_as<double>(from[lane * stride]);
      g[y][x] = load(values);
    }
}

// One vector of filters, at one channel; points are point_stride apart.
template <class W>
void winograd_pack_slice(const WinogradPackPlan& plan, const WinogradPhase& phase, int64_t filter,
                         int64_t channel, float* to, int64_t point_stride) {
  typedef float Rounded __attribute__((vector_size(kVectorBytes / 2)));
  constexpr int n = W::kPoints;
  Vec<double> g[3][3], columns[3][n];
  switch (plan.weight.dtype) {
    case DType::kBFloat16: winograd_gather<BFloat16>(plan, phase, filter, channel, g); break;
    case DType::kFloat16: winograd_gather<Float16>(plan, phase, filter, channel, g); break;
    default: winograd_gather<float>(plan, phase, filter, channel, g); break;
  }
#pragma GCC unroll 3
  for (int x = 0; x < 3; ++x) {
    const Vec<double> column[3] = {g[0][x], g[1][x], g[2][x]};
    W::filter(column, columns[x]);
  }
#pragma GCC unroll 1
  for (int i = 0; i < n; ++i) {
    const Vec<double> row[3] = {columns[0][i], columns[1][i], columns[2][i]};
    Vec<double> u[n];
    W::filter(row, u);
#pragma GCC unroll 8
    for (int j = 0; j < n; ++j) {
      const Rounded rounded = __builtin_convertvector(u[j], Rounded);
      __builtin_memcpy(to + (i * n + j) * point_stride, &rounded, sizeof rounded);
    }
  }
}

template <class W>
void winograd_pack(const WinogradPackPlan& plan, int64_t channel) {
  constexpr int64_t points = W::kPoints * W::kPoints;
  const int64_t channels = plan.channels * static_cast<int64_t>(plan.phases.inputs.size());
  float* block_begin = plan.to;
  for (const WinogradPhase& output : plan.phases.outputs)
    for (const ChannelBlock& block : plan.blocks) {
      const int64_t width = block.vectors * static_cast<int64_t>(kLanes<float>);
      float* to = block_begin + channel * width;
      for (const WinogradPhase& input : plan.phases.inputs) {
        for (int64_t k = 0; k < width; k += kLanes<double>)
          winograd_pack_slice<W>(plan, plan.transposed ? output : input, block.first + k, channel, to + k,
                                 channels * width);
        to += plan.channels * width;
      }
      block_begin += width * points * channels;
    }
}
