#include "host/coordinates.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "host/dispatch.h"
#include "host/split.h"

namespace km {

namespace {

// The unit roundoff of float, u: a rounded operation is off by this share of its result, at most.
constexpr float kUnit = 1.0f / (1 << 24);
// The basis is shortened by this much, so that rounding to float makes no direction longer than 1:
// a longer one would make the part of a row along the directions too large, and what the directions
// leave out too small.
constexpr float kShortened = 1e-5f;
// Centroids are sorted by at most so many leading coordinates. Directions come by their variance,
// so that the first ones tell most; features come in any order, and 64 of them make a good sample.
constexpr int64_t kMostLeading = 64;

// Margin for the numbers of 16 bits, relative to the length of a row of so many coordinates. Half a
// unit in each is ½ √numbers units in all, and a length is kWhole units. The 0.003 more pay for
// the unit's reciprocal and for the product that is rounded: together 2 u · kWhole = 0.004 units of
// the whole row, and 0.003 √numbers is 0.009 at least, since there are more than 8 features.
float share_of_rounding(int64_t numbers) { return 0.503f * std::sqrt(float(numbers)) / kWhole; }

// Margin for measuring along p directions, relative to the length of a row. A coordinate is a sum
// of d products in parts of 128: it has up to 128 roundings within a part, one for each part, and 4
// for the difference from the center, the basis and the first product. By Cauchy and Schwarz
// the coordinate is off by as many u times the row's length, and a vector of p by √p times as much.
float share_of_directions(int64_t p, int64_t d) {
  const float roundings = float(std::min(d, kProductsInPart) + d / kProductsInPart + 4);
  return kUnit * std::sqrt(float(p)) * roundings;
}

// How far a computed squared distance may be off when two of them are compared: a factor, more than
// 1. The sum of the deciding distance has stride / 16 roundings in each lane, in parts of 1024
// features (64 for each lane) that are added up; six more are for the difference, its square and
// the halves of the lanes. Two distances are compared, so 2 (roundings + 6) u would do; twice
// that, and 24 in place of 6, pay also for roots, and for the operations of the tests themselves.
float slack_of_distances(int64_t stride) {
  constexpr int64_t kPart = KM_FEATURES_IN_PART;
  const float roundings = float(std::min(stride, kPart) / kLanes + stride / kPart);
  return 1 + 4 * kUnit * (roundings + 24);
}

// Margin for the residual's square, r² = ‖x‖² - ‖z‖², relative to ‖x‖²; it is added to r², since
// the bound needs r or more. ‖z‖² is off by twice what z is off. ‖x‖² has stride / 16 roundings in
// a lane, ‖z‖² at most p, and 32 are for differences, sums of lanes, the subtraction and the root.
float blur_of_residual(int64_t p, int64_t d, int64_t stride) {
  return 2 * share_of_directions(p, d) + kUnit * float(stride / kLanes + 32 + p);
}

// Margin for a score x·c - ½‖c‖², such that the error is at most ½ margin (‖x‖² + ‖c‖²). With e
// the share by which each of two rows is off, their product is off by (2 e + e²) ‖x‖‖c‖, and
// ‖x‖‖c‖ ≤ ½ (‖x‖² + ‖c‖²).
float margin_of_scores(int64_t p, int64_t d, int64_t stride, int64_t numbers) {
  const float rounding = share_of_rounding(numbers);
  // Twice stride / 16 for the two squared norms, and 64 for scale, product and sum of a score.
  float margin = 2 * (share_of_directions(p, d) + kUnit * float(stride / kLanes + 64)) +
                 2 * rounding * (1 + 2 * rounding);
  // Without directions a tile adds up the squares of a row one feature after the other.
  if (!p) margin += kUnit * float(stride);
  return margin;
}

// The unit of the whole numbers of a row, as unit_of of kernel/many/coordinates-inl.h has it.
float unit_of_norm(float norm) { return std::sqrt(std::max(norm, kLeastNorm)) * (1 / kWhole); }

// The mean of centroids (k, stride) feature by feature, in double.
template <typename T>
void mean_of(const std::vector<T>& centroids, int64_t k, int64_t d, std::vector<float>& center) {
  const int64_t stride = filled(d);
  for (int64_t j = 0; j < d; ++j) {
    double sum = 0;
    for (int64_t c = 0; c < k; ++c) sum += double(centroids[c * stride + j]);
    center[j] = static_cast<float>(sum / double(k));
  }
}

}  // namespace

Directions directions_of(const float* basis, const float* center, int64_t p, int64_t d) {
  Directions directions;
  directions.count = p;
  directions.center.assign(center, center + (p ? d : 0));
  // Sixteen directions to a panel, one feature after the other: a kernel loads a feature of sixteen
  // directions at once. Directions that fill up the last panel are zeros.
  directions.basis.assign(size_t(filled(p) * d), 0.0f);
  for (int64_t i = 0; i < p; ++i)
    for (int64_t j = 0; j < d; ++j)
      directions.basis[size_t((i / kLanes * d + j) * kLanes + i % kLanes)] =
          basis[i * d + j] * (1 - kShortened);
  return directions;
}

template <typename T>
const Coordinates& CentroidCoordinates::choose_axes(const Directions& directions,
                                                    const std::vector<T>& centroids, int64_t k,
                                                    int64_t d) {
  const int64_t stride = filled(d), p = directions.count;
  // Norms are squared and products rounded relative to them, so they should be small: the origin is
  // the mean of the centroids, not far from the mean of the rows.
  center_.assign(size_t(stride), 0.0f);
  if (directions.center.empty())
    mean_of(centroids, k, d, center_);
  else
    std::copy(directions.center.begin(), directions.center.end(), center_.begin());
  const int64_t numbers = p ? p + 1 : d;  // p directions and the residual, or all features
  axes_ = {};
  axes_.directions = p;
  axes_.basis = directions.basis.data();
  axes_.center = center_.data();
  axes_.width = (numbers + 1) / 2;  // two numbers of 16 bits to a pair
  axes_.pitch = filled(axes_.width);
  axes_.margin = margin_of_scores(p, d, stride, numbers);
  axes_.blur = blur_of_residual(p, d, stride);
  axes_.slack = slack_of_distances(stride);
  k_ = k;
  return axes_;
}

template <typename T>
bool CentroidCoordinates::measure(const std::vector<T>& centroids, int64_t k, int64_t d,
                                  int threads) {
  const Kernel<T>& kernel = current_kernel<T>();
  const int64_t stride = filled(d), shares = n_shares(k, d, threads);
  measured_ = aligned<int32_t>(size_t(k * axes_.pitch));
  norms_ = aligned<float>(size_t(k));
  const auto centered = for_each_part<float>(shares, size_t(kBlock * stride));
  const auto along =
      for_each_part<float>(shares, size_t(kMostRowsTogether * (axes_.directions + 1)));
  in_shares(k, shares, [&](int64_t share, int64_t begin, int64_t end) {
    for (int64_t first = begin; first < end; first += kBlock)
      kernel.measure(axes_, centroids.data() + first * stride, d, stride,
                     static_cast<int>(std::min<int64_t>(kBlock, end - first)),
                     centered[size_t(share)].get(), along[size_t(share)].get(),
                     measured_.get() + first * axes_.pitch, norms_.get() + first);
  });
  // A norm that is NaN is not below either.
  return std::all_of(norms_.get(), norms_.get() + k, [](float norm) { return norm < kTooLarge; });
}

int64_t CentroidCoordinates::leading_width() const {
  return std::min<int64_t>(2 * axes_.width, kMostLeading);
}

std::vector<float> CentroidCoordinates::leading() const {
  const int64_t width = leading_width();
  std::vector<float> numbers(size_t(k_ * width));
  for (int64_t i = 0; i < k_ * width; ++i) {
    const int64_t c = i / width, axis = i % width;
    const int32_t pair = measured_[c * axes_.pitch + axis / 2];
    const int32_t whole = axis % 2 ? pair >> 16 : int16_t(pair);  // high half, or low half
    numbers[size_t(i)] = float(whole) * unit_of_norm(norms_[c]);
  }
  return numbers;
}

const Coordinates& CentroidCoordinates::place(const int32_t* index, int64_t count) {
  placed_ = aligned<int32_t>(size_t(count * axes_.pitch));
  units_ = aligned<float>(size_t(count));
  offsets_ = aligned<float>(size_t(count));
  for (int64_t place = 0; place < count; ++place) {
    int32_t* const to = placed_.get() + place * axes_.pitch;
    if (place >= k_) {  // fills up sixteen: no score is lower
      std::fill_n(to, axes_.pitch, 0);
      units_[place] = 0;
      offsets_[place] = -std::numeric_limits<float>::infinity();
      continue;
    }
    const int64_t c = index[place];
    std::copy_n(measured_.get() + c * axes_.pitch, axes_.pitch, to);
    units_[place] = unit_of_norm(norms_[c]);
    // The centroid's half of the margin raises the score; the row's half is in least_winning_score.
    offsets_[place] = -0.5f * norms_[c] * (1 - axes_.margin);
  }
  axes_.of_centroids = placed_.get();
  axes_.units = units_.get();
  axes_.offsets = offsets_.get();
  return axes_;
}

template const Coordinates& CentroidCoordinates::choose_axes(const Directions&,
                                                             const std::vector<float>&, int64_t,
                                                             int64_t);
template const Coordinates& CentroidCoordinates::choose_axes(const Directions&,
                                                             const std::vector<double>&, int64_t,
                                                             int64_t);
template bool CentroidCoordinates::measure(const std::vector<float>&, int64_t, int64_t, int);
template bool CentroidCoordinates::measure(const std::vector<double>&, int64_t, int64_t, int);

}  // namespace km
