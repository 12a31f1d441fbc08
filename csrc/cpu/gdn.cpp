#include "gdn.h"

#include <algorithm>

#include "conv_pack.h"
#include "storage.h"
#include "winograd_kernels.h"

namespace denoise_ext::cpu {
namespace {

// A piece's pixels, their squares and the sums of one block stay in the second-level cache.
constexpr int64_t kPieceBytes = 192 * 1024;
constexpr int64_t kLargestPiece = 192, kRegisterTile = 12;
constexpr int64_t kFewestTasks = 16;

// Rows that follow one another in memory are one long row.
bool is_one_row(const Tensor4& x) {
  return x.stride[2] == x.size[3] * x.stride[3];
}

void join_rows(Tensor4& x) {
  x.size[3] *= x.size[2];
  x.size[2] = 1;
}

}  // namespace

const char* gdn_obstacle(const GdnParams& params) {
  const ConvParams& p = params.conv;
  if (accumulation_type(p.input.dtype) != DType::kFloat32) return "float64 is not computed here";
  if (has_few_outputs(p, kernels().vector_bytes / static_cast<int64_t>(sizeof(float))))
    return "the input has too few channels";
  return nullptr;
}

void run(const GdnParams& params, const Threads& threads) {
  const KernelTable& table = kernels();
  const auto lanes = table.vector_bytes / static_cast<int64_t>(sizeof(float));
  GdnPlan plan{};
  plan.conv = params.conv;
  plan.inverse = params.inverse;
  Tensor4 &input = plan.conv.input, &output = plan.conv.output;
  if (is_one_row(input) && is_one_row(output)) {
    join_rows(input);
    join_rows(output);
  }
  plan.channels = input.size[1];
  plan.width = divide_up(plan.channels, lanes) * lanes;
  plan.blocks = channel_blocks(plan.channels, static_cast<int>(lanes), table.accumulators);
  const int64_t fitting = kPieceBytes / (plan.width * 3 * static_cast<int64_t>(sizeof(float)));
  const int64_t pixels = input.size[0] * input.size[2] * input.size[3];
  const int64_t most = std::min({fitting, pixels / kFewestTasks, kLargestPiece});
  plan.piece = std::max<int64_t>(most / kRegisterTile, 1) * kRegisterTile;
  plan.pieces_per_row = divide_up(input.size[3], plan.piece);
  plan.squares_offset = plan.piece * plan.width;
  plan.sums_offset = 2 * plan.squares_offset;
  plan.scratch_bytes = static_cast<size_t>(3 * plan.squares_offset) * sizeof(float);
  std::vector<float> bias(static_cast<size_t>(plan.width), 0.0f);
  if (plan.conv.bias.data != nullptr)
    with_storage(plan.conv.bias.dtype, [&](auto storage) {
      const auto* from = static_cast<const decltype(storage)*>(plan.conv.bias.data);
      for (int64_t c = 0; c < plan.channels; ++c)
        bias[static_cast<size_t>(c)] = load_as<float>(from[c * plan.conv.bias.stride]);
    });
  plan.bias = bias.data();
  plan.weight = reinterpret_cast<const float*>(&packed_weight_header(plan.conv) + 1);
  for_each_block(threads, input.size[0] * input.size[2] * plan.pieces_per_row,
                 [&](int64_t task, Scratch& scratch) {
                   table.winograd->gdn_piece(plan, task, scratch.reserve(plan.scratch_bytes));
                 });
}

std::string explain(const GdnParams&, const KernelTable& table) {
  return chosen_line("gdn_piece", table);
}

}  // namespace denoise_ext::cpu
