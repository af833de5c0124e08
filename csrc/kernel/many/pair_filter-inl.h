// Pairs of a row and a centroid, sifted by the scores of their coordinates.
//
#pragma once

#include "kernel/many/pairs-inl.h"

namespace km::KM_TARGET {
namespace {

template <typename T>
class Sift {
 public:
  // Takes rows as they are known now. What is not sifted out is added to near.
  Sift(const Block<T>& block, Pairs<T>& near) : block_(block), near_(near) {
    for (int i = 0; i < block.count; ++i) {
      row_terms_[i][0] = block.unit[i];
      row_terms_[i][1] = block.enough[i];
      row_terms_[i][2] = block.least_norm(i);
      row_terms_[i][3] = block.base[i] + kFuzz;
    }
  }

  // Some rows, a bit each, with a centroid.
  void add(uint64_t rows, int64_t where) {
    const int32_t bounds = block_.s.bounds.group_of[where] * kBlock;
    for (int left = __builtin_popcountll(rows); left > 0; left -= kTogether) {
      for (int p = count_; p < count_ + kTogether; ++p) {  // missing ones repeat the last
        row_[p] = __builtin_ctzll(rows);
        where_[p] = static_cast<int32_t>(where);
        bound_[p] = bounds + row_[p];
        const uint64_t others = rows & (rows - 1);
        rows = others ? others : rows;
      }
      multiply(count_, where);
      count_ += least_of(left, kTogether);
    }
    if (count_ > kMost) finish();
  }

  void finish() {
    const int end = (count_ + kLanes - 1) / kLanes * kLanes;
    for (int p = count_; p < end; ++p) row_[p] = where_[p] = bound_[p] = 0;
    for (int first = 0; first < end; first += kLanes)
      sift(first, (1u << least_of(count_ - first, kLanes)) - 1);
    count_ = 0;
  }

 private:
  static constexpr int kTogether = 4;
  static constexpr int kMost = 512;
  static constexpr int kRoom = kMost + kBlock + kLanes;

  // Products of the coordinates of a few rows and of a centroid.
  void multiply(int first, int64_t where) {
    const Search<T>& s = block_.s;
    const int32_t* const centroid = s.coordinates.of_centroids + where * s.coordinates.pitch;
    const int32_t* rows[kTogether];
    Sixteen<int32_t> sums[kTogether];
    for (int r = 0; r < kTogether; ++r) {
      rows[r] = block_.coordinates_of(row_[first + r]);
      sums[r] = broadcast(0);
    }
    for (int64_t j = 0; j < s.coordinates.pitch; j += kLanes)
      for (int r = 0; r < kTogether; ++r)
        add_products_of_pairs(sums[r], load(rows[r] + j), load(centroid + j));
    sums_of_lanes(sums, product_ + first);
  }

  // Of sixteen pairs, a bit each, those that may be nearest go on; the others get bounds.
  void sift(int first, unsigned pairs) {
    const Search<T>& s = block_.s;
    Sixteen<float> of_row[4], of_centroid[4];
    gather(row_terms_, row_ + first, of_row);
    gather(s.bounds.terms, where_ + first, of_centroid);
    Sixteen<float> score = of_centroid[1];
    add_products(score, as_floats(load(product_ + first)), times(of_row[0], of_centroid[0]));
    const unsigned near = at_least(score, of_row[1]) & pairs;
    const Bytes steps =
        to_steps(keep_lanes(pairs & ~near, times_plus(score, -2, of_row[2]), kTooLarge),
                 s.bounds.per_step, minus(of_centroid[2], of_row[3]));
    for (int r = 0; r < kLanes; ++r) {
      uint8_t& kept = block_.bounds[bound_[first + r]];
      const uint8_t before = kept;
      kept = steps[r] < before ? steps[r] : before;
    }
    float scores[kLanes];
    if (near) store(scores, score);
    for (unsigned left = near; left; left &= left - 1) {
      const int r = __builtin_ctz(left);
      near_.add(row_[first + r], where_[first + r], scores[r]);
    }
  }

  const Block<T>& block_;
  Pairs<T>& near_;
  alignas(64) float row_terms_[kBlock][4];  // unit, enough, squared norm rounded down, base
  int count_ = 0;
  int32_t row_[kRoom], where_[kRoom], product_[kRoom];
  int32_t bound_[kRoom];  // which of the block's
};

}  // namespace
}  // namespace km::KM_TARGET
