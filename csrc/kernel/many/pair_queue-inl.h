// Pairs of a row and a centroid that no bound discards: the deciding distance is computed for them.
#pragma once

#include "kernel/many/block-inl.h"

namespace km::KM_TARGET {
namespace {

// Collects pairs, and measures them four at a time once the queue is full: distances of four pairs
// are computed together, and a nearer centroid that an early pair finds discards later ones. Pairs
// are measured in the order of `add`; among equal distances the lower index wins, so that the order
// does not show in the labels.
template <typename T>
class PairQueue {
 public:
  explicit PairQueue(Block<T>& block) : block_(block) {}

  // Row i (0 to kBlock - 1) with the centroid at a place; its score, or infinity for
  // a pair without a score.
  void add(int i, int64_t place, float score) {
    row_[count_] = static_cast<uint8_t>(i);
    place_[count_] = static_cast<int32_t>(place);
    score_[count_++] = score;
    if (count_ == kMost) decide();
  }

  // Measures the pairs of the queue, and empties it. Rows of which only an upper bound is known are
  // measured against their own centroid first.
  void decide() {
    int waiting = 0, pair[kPairsTogether] = {};
    uint64_t rows = 0;
    for (int p = 0; p < count_; ++p) rows |= uint64_t{1} << row_[p];
    if (rows & ~block_.measured) block_.measure_assigned(rows & ~block_.measured);
    for (int p = 0; p < count_; ++p) {
      const int i = row_[p];
      if (place_[p] == block_.nearest[i]) continue;
      if (score_[p] < block_.least_score[i]) {  // the row has found a nearer centroid since `add`
        block_.bounds.lower(
            i, place_[p],
            distance_below(block_.search.coordinates, block_.rows.norm[i], score_[p]));
        continue;
      }
      pair[waiting++] = p;
      compared_ |= uint64_t{1} << i;
      if (waiting == kPairsTogether) decide_four(pair, waiting);
    }
    if (waiting) decide_four(pair, waiting);
    count_ = 0;
  }

  // The set of rows that were measured against other centroids than their nearest so far.
  uint64_t compared() const { return compared_; }

 private:
  static constexpr int kMost = 512;  // pairs in the queue: 4.5 KiB, in the first-level cache

  // Measures up to four pairs of the queue, in their order.
  void decide_four(const int (&pair)[kPairsTogether], int& waiting) {
    const T *rows[kPairsTogether], *centroids[kPairsTogether];
    T squared[kPairsTogether];
    for (int n = 0; n < kPairsTogether; ++n) {  // where fewer than four wait, the first again
      const int p = pair[n < waiting ? n : 0];
      rows[n] = block_.rows.row(row_[p]);
      centroids[n] = block_.centroid(place_[p]);
    }
    squared_distances(rows, centroids, block_.search.places.stride, squared);
    for (int n = 0; n < waiting; ++n)
      block_.keep_nearer(row_[pair[n]], place_[pair[n]], squared[n]);
    waiting = 0;
  }

  Block<T>& block_;
  uint64_t compared_ = 0;
  int count_ = 0;         // pairs in the queue, 0 to kMost
  uint8_t row_[kMost];    // of the block
  int32_t place_[kMost];  // of the centroid
  float score_[kMost];
};

}  // namespace
}  // namespace km::KM_TARGET
