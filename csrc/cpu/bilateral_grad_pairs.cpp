#include "bilateral_grad_pairs.h"

#include <algorithm>
#include <cmath>

namespace denoise_ext::cpu {
namespace {

// Pairs are visited one at a time, positions of the enlarged image a vector at a time.
constexpr int64_t kFavoured = 8;
// A strip of the image has sums of its own, added up in the order of the strips.
constexpr int64_t kStrips = 8;

// For each position of the enlarged axis, the pixel's index times `step`; -1 outside of the image.
std::vector<int64_t> sources(int64_t extent, int64_t radius, int64_t step, Border border) {
  std::vector<int64_t> list;
  for (int64_t i = -radius; i < extent + radius; ++i) {
    const int64_t source = border_index(i, extent, border);
    list.push_back(source < 0 ? -1 : source * step);
  }
  return list;
}

// Planes of image n with a zero behind each.
template <class T>
void unpack(const Tensor4& image, int64_t n, std::vector<T>& planes) {
  with_storage(image.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    const auto* data = static_cast<const Storage*>(image.data) + n * image.stride[0];
    auto to = planes.begin();
    for (int64_t c = 0; c < image.size[1]; ++c) {
      for (int64_t y = 0; y < image.size[2]; ++y)
        for (int64_t x = 0; x < image.size[3]; ++x)
          *to++ = load_as<T>(data[c * image.stride[1] + y * image.stride[2] + x * image.stride[3]]);
      *to++ = T(0);
    }
  });
}

}  // namespace

bool favours_pairs(const BilateralPlan& enlarged) {
  const Tensor4& image = enlarged.params.input;
  return enlarged.extent[0] * enlarged.extent[1] > kFavoured * image.size[2] * image.size[3];
}

template <class T>
struct BilateralGradPairs<T>::Strip {
  double* input;     // [channel][plane_], or nullptr where it is not wanted
  double* guidance;  // [guidance channel][plane_], likewise
  double color = 0, y = 0, x = 0;
};

template <class T>
BilateralGradPairs<T>::BilateralGradPairs(const BilateralGradPlan& grad, const BilateralTables<T>& tables)
    : grad_(grad),
      params_(grad.params.forward),
      tables_(tables),
      height_(params_.input.size[2]),
      width_(params_.input.size[3]),
      channels_(params_.input.size[1]),
      guides_(params_.guidance.size[1]),
      plane_(height_ * width_ + 1),
      rows_(sources(height_, grad.enlarged.radius[0], width_, params_.border)),
      columns_(sources(width_, grad.enlarged.radius[1], 1, params_.border)),
      input_(static_cast<size_t>(channels_ * plane_)),
      guidance_(static_cast<size_t>(guides_ * plane_)),
      sums_(static_cast<size_t>(kStrips), std::vector<double>(input_.size() + guidance_.size())) {}

// Adds what the pixel's window contributes, the pixel being the centre.
template <class T>
void BilateralGradPairs<T>::visit(int64_t n, int64_t pixel, Strip& strip) const {
  const auto& taps = grad_.enlarged.taps;
  const auto count = static_cast<int64_t>(taps.size());
  const T* log_space = tables_.log_space.data() + (params_.sigma_space.size == 2 ? 0 : n * count);
  const T scale = tables_.color_scale[static_cast<size_t>(params_.sigma_color.size == 1 ? 0 : n)];
  const bool l1 = params_.distance == ColorDistance::kL1 && guides_ > 1;
  const T* scaled = static_cast<const T*>(grad_.scaled.data) + pixel;  // G / D, and B as the last plane
  const int64_t area = plane_ - 1;
  const int64_t* row = rows_.data() + pixel / width_ + grad_.enlarged.radius[0];
  const int64_t* column = columns_.data() + pixel % width_ + grad_.enlarged.radius[1];
  for (int64_t i = 0; i < count; ++i) {
    const BilateralTap& tap = taps[static_cast<size_t>(i)];
    const int64_t y = row[tap.dy], x = column[tap.dx], other = y < 0 || x < 0 ? area : y + x;
    T distance = 0;
    for (int64_t c = 0; c < guides_; ++c) {
      const T* plane = guidance_.data() + c * plane_;
      const T difference = plane[other] - plane[pixel];
      distance += l1 ? std::abs(difference) : difference * scale * (difference * scale);
    }
    const T exponent = l1 ? distance * scale * (distance * scale) : distance;
    const T weight = std::exp(log_space[i] - exponent);
    T outward = -scaled[channels_ * area];
    for (int64_t c = 0; c < channels_; ++c) {
      outward += scaled[c * area] * input_[static_cast<size_t>(c * plane_ + other)];
      if (strip.input != nullptr) strip.input[c * plane_ + other] += weight * scaled[c * area];
    }
    outward *= weight;
    strip.color += outward * exponent;
    strip.y += outward * static_cast<T>(tap.dy * tap.dy);
    strip.x += outward * static_cast<T>(tap.dx * tap.dx);
    if (strip.guidance == nullptr) continue;
    const T factor = T(-2) * scale * (l1 ? outward * (distance * scale) : outward);
    for (int64_t c = 0; c < guides_; ++c) {
      const T* plane = guidance_.data() + c * plane_;
      const T difference = plane[pixel] - plane[other];
      const T sign = static_cast<T>((difference > 0) - (difference < 0));
      const T term = factor * (l1 ? sign : difference * scale);
      strip.guidance[c * plane_ + pixel] += term;
      strip.guidance[c * plane_ + other] -= term;
    }
  }
}

// Adds up the strips' planes from `first_plane` on, and writes them to image n.
template <class T>
void BilateralGradPairs<T>::store(const Tensor4& to, int64_t n, int64_t first_plane) const {
  with_storage(to.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    auto* data = static_cast<Storage*>(to.data) + n * to.stride[0];
    for (int64_t c = 0; c < to.size[1]; ++c)
      for (int64_t pixel = 0; pixel < plane_ - 1; ++pixel) {
        double sum = 0;
        for (const auto& strip : sums_) sum += strip[static_cast<size_t>((first_plane + c) * plane_ + pixel)];
        data[c * to.stride[1] + pixel / width_ * to.stride[2] + pixel % width_ * to.stride[3]] =
            StoreAs<Storage>::from(static_cast<T>(sum));
      }
  });
}

template <class T>
void BilateralGradPairs<T>::run(int64_t n, std::vector<double>& partial_sums, const Threads& threads) {
  partial_sums.resize(3 * kStrips);
  unpack(params_.input, n, input_);
  unpack(params_.guidance, n, guidance_);
  const int64_t area = plane_ - 1;
  for_each_block(threads, kStrips, [&](int64_t block, Scratch&) {
    auto& planes = sums_[static_cast<size_t>(block)];
    std::fill(planes.begin(), planes.end(), 0.0);
    Strip strip{grad_.params.grad_input.data != nullptr ? planes.data() : nullptr,
                grad_.params.grad_guidance.data != nullptr ? planes.data() + channels_ * plane_ : nullptr};
    for (int64_t pixel = block * area / kStrips; pixel < (block + 1) * area / kStrips; ++pixel)
      visit(n, pixel, strip);
    const double sums[] = {strip.color, strip.y, strip.x};
    std::copy_n(sums, 3, partial_sums.begin() + 3 * block);
  });
  if (grad_.params.grad_input.data != nullptr) store(grad_.params.grad_input, n, 0);
  if (grad_.params.grad_guidance.data != nullptr) store(grad_.params.grad_guidance, n, channels_);
}

template class BilateralGradPairs<float>;
template class BilateralGradPairs<double>;

}  // namespace denoise_ext::cpu
