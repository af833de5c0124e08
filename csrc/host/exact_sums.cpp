#include "host/exact_sums.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "host/dispatch.h"
#include "host/memory.h"
#include "host/split.h"

namespace km {

namespace {

// Bytes of split sums (2, k, d) that each thread of a call may have.
constexpr int64_t kMostBytes = 16 << 20;
// Work (changes × features) below which a thread more costs more than it saves.
constexpr int64_t kChangesPerThread = 1 << 15;
// The least share of inertia in the sizes of the terms that it is the sum of. A term carries about
// ten roundings of 1.1e-16, whose signs vary, so that the sum is off by about 1e-15 of the sizes:
// 1e-9 of an inertia at this share.
constexpr double kLeastShare = 1e-6;

}  // namespace

template <typename T>
void ExactSums<T>::start(const km_rows& rows, int64_t k, bool same_labels, int64_t parts,
                         const float* center) {
  if (rows.n != n_ || k != k_ || rows.d != d_) inexact_ = current_ = false;
  n_ = rows.n;
  k_ = k;
  d_ = rows.d;
  follows_ = current_ && same_labels;
  current_ = false;  // until this call has succeeded
  if (follows_) return;
  center_.assign(center, center + d_);
  splits_ = !inexact_ && sizeof(T) == sizeof(float) && !rows.weights &&
            k * d_ * int64_t(2 * sizeof(double)) <= kMostBytes;
  if (splits_) unit_.choose(largest_in_sample(rows), n_);
  zero(parts);
}

// Makes so many parts, whose sums are 0.
template <typename T>
void ExactSums<T>::zero(int64_t parts) {
  parts_.resize(size_t(parts));
  for (Part& part : parts_) {
    part.high.assign(size_t(k_ * d_), 0.0);
    part.low.assign(splits_ ? size_t(k_ * d_) : 0, 0.0);
    part.counts.assign(size_t(k_), 0.0);
    part.squares.assign(size_t(d_), 0.0);
    part.sums = {splits_ ? unit_.splitter() : 0,
                 part.high.data(),
                 part.low.data(),
                 part.counts.data(),
                 center_.data(),
                 part.squares.data(),
                 0,
                 0};
  }
}

// Adds all rows to the parts again, by their labels.
template <typename T>
void ExactSums<T>::add_all(const km_rows& rows, int64_t stride, const int64_t* labels) {
  const int64_t parts = int64_t(parts_.size());
  zero(parts);
  const auto row = for_each_part<T>(parts, size_t(stride));
  in_parallel(parts, [&](int64_t p) {
    in_turns(rows, parts, p, [&](int64_t begin, int64_t end) {
      current_kernel<T>().add_up(rows, stride, begin, end, labels, of_part(p),
                                 row[size_t(p)].get());
    });
  });
}

// The range of all numbers that the parts have added. The smallest of none, 0, must not win: less 1
// it is the largest integer.
template <typename T>
FloatRange ExactSums<T>::range_of_parts() const {
  uint32_t largest = 0, below_smallest = std::numeric_limits<uint32_t>::max();
  for (const Part& part : parts_) {
    largest = std::max(largest, part.sums.largest);
    below_smallest = std::min(below_smallest, part.sums.smallest - 1);
  }
  return {largest, below_smallest + 1};
}

template <typename T>
void ExactSums<T>::add_parts(const km_rows& rows, int64_t stride, const int64_t* labels) {
  if (splits_) {
    const FloatRange range = range_of_parts();
    if (!unit_.is_exact(range, n_)) {  // the sample had other numbers
      unit_.choose(range.largest, n_);
      splits_ = unit_.is_exact(range, n_);
      inexact_ = !splits_;
      add_all(rows, stride, labels);
    }
  }
  // In the order of the parts; of exact sums no order would make a difference.
  Part& all = parts_[0];
  for (size_t p = 1; p < parts_.size(); ++p) {
    const Part& part = parts_[p];
    for (size_t i = 0; i < all.high.size(); ++i) all.high[i] += part.high[i];
    for (size_t i = 0; i < all.low.size(); ++i) all.low[i] += part.low[i];
    for (size_t i = 0; i < all.counts.size(); ++i) all.counts[i] += part.counts[i];
    for (size_t i = 0; i < all.squares.size(); ++i) all.squares[i] += part.squares[i];
  }
  parts_.resize(1);
  current_ = splits_;
}

// The squares stay: Σ weight · (x - center)² is over all rows, whatever their clusters are. Changes
// are sorted by cluster, whose sums then stay in a cache; a thread has whole clusters.
template <typename T>
void ExactSums<T>::move(const km_rows& rows, int64_t stride, const std::vector<Move>& moves,
                        int threads) {
  const int64_t count = 2 * int64_t(moves.size());
  // A counting sort. end[c] is how many changes cluster c has; then the place of its next change;
  // and at last, as the name says, the end of its changes.
  std::vector<int64_t> end(size_t(k_), 0);
  for (const Move& m : moves) ++end[m.from], ++end[m.to];
  int64_t begin = 0;
  for (int64_t& next : end) begin += std::exchange(next, begin);
  std::vector<Change> changes(static_cast<size_t>(count));
  for (const Move& m : moves) {
    changes[end[m.from]++] = {m.row, m.from, false};
    changes[end[m.to]++] = {m.row, m.to, true};
  }
  const int64_t parts = std::min<int64_t>(threads, count * d_ / kChangesPerThread + 1);
  // The first change of a part: the end of the first cluster that reaches a share p / parts.
  auto begin_of_part = [&](int64_t p) {
    return p ? *std::lower_bound(end.begin(), end.end(), count * p / parts) : 0;
  };
  const auto row = for_each_part<float>(parts, size_t(stride));
  in_parallel(parts, [&](int64_t p) {
    const int64_t first = begin_of_part(p);
    current_kernels().change(rows, stride, changes.data() + first, begin_of_part(p + 1) - first,
                             parts_[0].sums, row[size_t(p)].get());
  });
  current_ = true;
}

template <typename T>
void ExactSums<T>::write(double* sums, double* counts, int threads) const {
  const Part& all = parts_[0];
  std::copy(all.counts.begin(), all.counts.end(), counts);
  in_shares(k_, n_shares(k_, d_, threads), [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin * d_; i < end * d_; ++i)
      sums[i] = splits_ ? all.high[i] + all.low[i] : all.high[i];
  });
}

// What the centroid of a cluster (d) adds to Σ weight · ‖x - center‖² to make Σ weight · ‖x - c‖²
// of it. With o = c - center and S = Σ weight · (x - center), both near 0 beside the data:
//   Σ weight · ((x - c)² - (x - center)²) = o (weight · o - 2 S)
template <typename T>
typename ExactSums<T>::Sum ExactSums<T>::inertia_of(int64_t cluster, const T* centroid) const {
  constexpr int kSums = 4;  // side by side: an addition need not wait for the one before
  const Part& all = parts_[0];
  const double weight = all.counts[size_t(cluster)];
  const double* const high = all.high.data() + cluster * d_;
  const double* const low = splits_ ? all.low.data() + cluster * d_ : nullptr;
  Sum sums[kSums];
  auto add = [&](int64_t j, Sum& sum) {
    const double center = center_[size_t(j)];
    const double offset = double(centroid[j]) - center;
    const double centered_sum = (low ? high[j] + low[j] : high[j]) - weight * center;
    sum.value += offset * (weight * offset - 2 * centered_sum);
    sum.scale += std::abs(offset) *
                 (weight * (std::abs(offset) + 2 * std::abs(center)) + 2 * std::abs(centered_sum));
  };
  int64_t j = 0;
  for (; j + kSums <= d_; j += kSums)
    for (int i = 0; i < kSums; ++i) add(j + i, sums[i]);
  for (; j < d_; ++j) add(j, sums[0]);
  Sum of_cluster;
  for (const Sum& sum : sums) of_cluster.value += sum.value, of_cluster.scale += sum.scale;
  return of_cluster;
}

// In the order of the clusters, however many threads there are.
template <typename T>
double ExactSums<T>::inertia(const T* centroids, int threads) const {
  std::vector<Sum> terms(size_t(k_) + 1);  // of each cluster, and of the squares
  in_shares(k_, n_shares(k_, d_, threads), [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) terms[size_t(c)] = inertia_of(c, centroids + c * d_);
  });
  Sum& squares = terms[size_t(k_)];
  for (double square : parts_[0].squares) squares.value += square, squares.scale += square;
  double inertia = 0, scale = 0;
  for (const Sum& sum : terms) inertia += sum.value, scale += sum.scale;
  return inertia >= kLeastShare * scale ? inertia : std::numeric_limits<double>::quiet_NaN();
}

template class ExactSums<float>;
template class ExactSums<double>;

}  // namespace km
