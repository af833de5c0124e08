#include "host/exact_sums.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <utility>

#include "host/dispatch.h"
#include "host/memory.h"
#include "host/split.h"

namespace km {

namespace {

// Memory of exact sums, for each thread.
constexpr int64_t kMostBytes = 16 << 20;
constexpr int kDigits = 53;  // of a double
constexpr int kFloatDigits = 24;
constexpr int64_t kSample = 256;  // of rows that are asked how large numbers are
constexpr int kSlack = 3;         // other rows may be 2^kSlack as large
// Work (rows × features) below which a thread more costs more than it saves.
constexpr int64_t kChangesPerThread = 1 << 15;
// An inertia that is a smaller share of the terms that it is the sum of may be off by 1e-9.
constexpr double kLeastShare = 1e-6;

uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits & 0x7fffffff;
}

float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// The least e with number < 2^e.
int exponent_of(double number) {
  int exponent = 0;
  std::frexp(number, &exponent);
  return exponent;
}

// Of a sample.
uint32_t largest_of(const km_rows& rows) {
  if (rows.cosine) return bits_of(1);
  uint32_t largest = 0;
  std::vector<float> row(static_cast<size_t>(rows.d));
  for (int64_t i = 0; i < rows.n; i += rows.n / kSample + 1) {
    current_kernel<float>().copy_rows(rows, i, 1, rows.d, row.data());
    for (float value : row) largest = std::max(largest, bits_of(value));
  }
  return largest;
}

}  // namespace

template <typename T>
void ExactSums<T>::start(const km_rows& rows, int64_t k, bool follows, int64_t parts,
                         const float* center) {
  if (rows.n != n_ || k != k_ || rows.d != d_) inexact_ = current_ = false;
  n_ = rows.n;
  k_ = k;
  d_ = rows.d;
  follows_ = current_ && follows;
  current_ = false;  // until this call has succeeded
  if (follows_) return;
  center_.assign(center, center + d_);
  splits_ = !inexact_ && sizeof(T) == sizeof(float) && !rows.weights &&
            k * d_ * int64_t(2 * sizeof(double)) <= kMostBytes;
  if (splits_) split(largest_of(rows));
  zero(parts);
}

template <typename T>
void ExactSums<T>::zero(int64_t parts) {
  parts_.resize(size_t(parts));
  for (Part& part : parts_) {
    part.high.assign(size_t(k_ * d_), 0.0);
    part.low.assign(splits_ ? size_t(k_ * d_) : 0, 0.0);
    part.counts.assign(size_t(k_), 0.0);
    part.squares.assign(size_t(d_), 0.0);
    part.sums = {splits_ ? std::ldexp(1.5, unit_ + kDigits - 1) : 0,
                 part.high.data(),
                 part.low.data(),
                 part.counts.data(),
                 center_.data(),
                 part.squares.data(),
                 0,
                 0};
  }
}

// Sums of n multiples of a unit, of numbers that are largest or a little more, have no more digits
// than a double.
template <typename T>
void ExactSums<T>::split(uint32_t largest) {
  unit_ = exponent_of(float_of(largest)) + kSlack + exponent_of(double(n_)) - (kDigits - 1);
}

// Whether sums of both parts of a number have no more digits than a double.
template <typename T>
bool ExactSums<T>::is_exact(uint32_t largest, uint32_t smallest) const {
  constexpr uint32_t kInfinite = 0x7f800000;
  if (largest == 0) return true;
  if (largest >= kInfinite) return false;
  const int digits_of_n = exponent_of(double(n_));
  const int last_digit = std::max(exponent_of(float_of(smallest)), -125) - kFloatDigits;
  return exponent_of(float_of(largest)) <= unit_ + kDigits - 1 - digits_of_n &&
         digits_of_n + unit_ - last_digit <= kDigits;
}

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

template <typename T>
void ExactSums<T>::add_parts(const km_rows& rows, int64_t stride, const int64_t* labels) {
  if (splits_) {
    uint32_t largest = 0, below_smallest = std::numeric_limits<uint32_t>::max();
    for (const Part& part : parts_) {
      largest = std::max(largest, part.sums.largest);
      below_smallest = std::min(below_smallest, part.sums.smallest - 1);
    }
    if (!is_exact(largest, below_smallest + 1)) {  // the sample told something else
      split(largest);
      splits_ = is_exact(largest, below_smallest + 1);
      inexact_ = !splits_;
      add_all(rows, stride, labels);
    }
  }
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

// Cluster by cluster, whose sums then stay in a cache.
template <typename T>
void ExactSums<T>::move(const km_rows& rows, int64_t stride, const std::vector<Move>& moves,
                        int threads) {
  const int64_t count = 2 * int64_t(moves.size());
  std::vector<int64_t> end(size_t(k_), 0);  // of a cluster's changes; until they are there, begin
  for (const Move& m : moves) ++end[m.from], ++end[m.to];
  int64_t begin = 0;
  for (int64_t& next : end) begin += std::exchange(next, begin);
  std::vector<Change> changes(static_cast<size_t>(count));
  for (const Move& m : moves) {
    changes[end[m.from]++] = {m.row, m.from, false};
    changes[end[m.to]++] = {m.row, m.to, true};
  }
  const int64_t parts = std::min<int64_t>(threads, count * d_ / kChangesPerThread + 1);
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

template <typename T>
double ExactSums<T>::inertia(const T* centroids, int threads) const {
  constexpr int kSums = 4;  // that need not wait for each other
  struct Sum {
    double value = 0, scale = 0;
  };
  const Part& all = parts_[0];
  std::vector<Sum> of(size_t(k_) + 1);
  in_shares(k_, n_shares(k_, d_, threads), [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      const double weight = all.counts[size_t(c)];
      const double* const high = all.high.data() + c * d_;
      const double* const low = splits_ ? all.low.data() + c * d_ : nullptr;
      Sum sums[kSums];
      auto add = [&](int64_t j, Sum& sum) {
        const double center = center_[size_t(j)];
        const double apart = double(centroids[c * d_ + j]) - center;
        const double its = (low ? high[j] + low[j] : high[j]) - weight * center;
        sum.value += apart * (weight * apart - 2 * its);
        sum.scale += std::abs(apart) *
                     (weight * (std::abs(apart) + 2 * std::abs(center)) + 2 * std::abs(its));
      };
      int64_t j = 0;
      for (; j + kSums <= d_; j += kSums)
        for (int to = 0; to < kSums; ++to) add(j + to, sums[to]);
      for (; j < d_; ++j) add(j, sums[0]);
      for (const Sum& sum : sums) of[c].value += sum.value, of[c].scale += sum.scale;
    }
  });
  for (double square : all.squares) of[k_].value += square, of[k_].scale += square;
  double inertia = 0, terms = 0;
  for (const Sum& sum : of) inertia += sum.value, terms += sum.scale;
  return inertia >= kLeastShare * terms ? inertia : std::numeric_limits<double>::quiet_NaN();
}
template class ExactSums<float>;
template class ExactSums<double>;

}  // namespace km
