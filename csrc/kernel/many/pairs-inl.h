// Pairs of a row and a centroid that may be its nearest.
#pragma once

#include "kernel/many/block-inl.h"

namespace km::KM_TARGET {
namespace {

// Pairs of a row and a centroid that may be its nearest; looked at when there are many.
template <typename T>
class Pairs {
 public:
  explicit Pairs(Block<T>& block) : block_(block) {}

  void add(int i, int64_t where, float score) {
    row_[count_] = static_cast<uint8_t>(i);
    where_[count_] = static_cast<int32_t>(where);
    score_[count_++] = score;
    if (count_ == kMost) look();
  }

  void look() {
    int some = 0, pair[kTogether] = {};
    uint64_t rows = 0;
    for (int p = 0; p < count_; ++p) rows |= uint64_t{1} << row_[p];
    if (rows & ~block_.measured) block_.measure_own(rows & ~block_.measured);
    for (int p = 0; p < count_; ++p) {
      const int i = row_[p];
      if (where_[p] == block_.place[i]) continue;
      if (score_[p] < block_.enough[i]) {  // something nearer was found meanwhile
        block_.bound(i, where_[p], block_.least_distance(i, score_[p]));
        continue;
      }
      pair[some++] = p;
      compared_ |= uint64_t{1} << i;
      if (some == kTogether) compare(pair, some);
    }
    if (some) compare(pair, some);
    count_ = 0;
  }

  // Rows, a bit each, that have been measured.
  uint64_t rows() const { return compared_; }

 private:
  static constexpr int kMost = 512;
  static constexpr int kTogether = 4;

  void compare(const int (&pair)[kTogether], int& some) {
    const T *rows[kTogether], *centroids[kTogether];
    T distance[kTogether];
    for (int n = 0; n < kTogether; ++n) {  // missing ones repeat the first
      const int p = pair[n < some ? n : 0];
      rows[n] = block_.row(row_[p]);
      centroids[n] = block_.centroid(where_[p]);
    }
    squared_distances(rows, centroids, block_.s.places.stride, distance);
    for (int n = 0; n < some; ++n) block_.compare(row_[pair[n]], where_[pair[n]], distance[n]);
    some = 0;
  }

  Block<T>& block_;
  uint64_t compared_ = 0;
  int count_ = 0;
  uint8_t row_[kMost];
  int32_t where_[kMost];
  float score_[kMost];
};

}  // namespace
}  // namespace km::KM_TARGET
