// Pairs of a row and a centroid, screened by the scores of their coordinates.
//
// Lower bounds leave single rows near single groups, so products run along one pair's coordinates
// (four pairs at a time, for their sums to overlap), unlike a tile, whose rows stand in the lanes:
//
//     add(rows {2, 5, 9}, place 7)
//        row 2 · centroid 7  ->  product_[0]  |
//        row 5 · centroid 7  ->  product_[1]  |  sixteen at a time:  score >= least score?
//        row 9 · centroid 7  ->  product_[2]  |    yes -> PairQueue, which decides
//        row 9 again, no pair                 |    no  -> lower bound of the group
#pragma once

#include "kernel/many/pair_queue-inl.h"

namespace km::KM_TARGET {
namespace {

// Needs coordinates along directions. `add` pairs, then `finish`.
template <typename T>
class PairFilter {
 public:
  // Copies the present terms of all rows; pairs that survive the screen go to the queue.
  PairFilter(const Block<T>& block, PairQueue<T>& queue) : block_(block), queue_(queue) {
    for (int i = 0; i < block.rows.count; ++i) {
      row_terms_[i][0] = block.rows.unit[i];
      row_terms_[i][1] = block.least_score[i];
      row_terms_[i][2] = norm_below(block.search.coordinates, block.rows.norm[i]);
      row_terms_[i][3] = block.bounds.base[i] + kFuzz;
    }
  }

  // A set of rows, not empty, with the centroid at a place.
  void add(uint64_t rows, int64_t place) {
    const int32_t bounds = block_.search.bounds.group_of[place] * kBlock;
    for (int left = __builtin_popcountll(rows); left > 0; left -= kTogether) {
      for (int p = count_; p < count_ + kTogether; ++p) {  // after the last row, the last row again
        row_[p] = __builtin_ctzll(rows);
        place_[p] = static_cast<int32_t>(place);
        bound_[p] = bounds + row_[p];
        const uint64_t later = rows & (rows - 1);
        rows = later ? later : rows;
      }
      multiply(count_, place);
      count_ += least_of(left, kTogether);
    }
    if (count_ > kMost) finish();
  }

  // Screens the pairs that are waiting.
  void finish() {
    const int end = (count_ + kLanes - 1) / kLanes * kLanes;
    for (int p = count_; p < end; ++p) row_[p] = place_[p] = bound_[p] = 0;
    for (int first = 0; first < end; first += kLanes)
      screen(first, (1u << least_of(count_ - first, kLanes)) - 1);
    count_ = 0;
  }

 private:
  static constexpr int kTogether = 4;  // pairs whose sums are in registers
  static constexpr int kMost = 512;    // pairs that wait: products stay in the first-level cache
  static constexpr int kRoom =
      kMost + kBlock + kLanes;  // one `add` beyond kMost, rounded up to sixteen

  // z_x·z_c, in units of both, of four pairs from `first` on with the centroid at a place.
  void multiply(int first, int64_t place) {
    const Coordinates& c = block_.search.coordinates;
    const int32_t* const centroid = c.of_centroids + place * c.pitch;
    const int32_t* rows[kTogether];
    Sixteen<int32_t> sums[kTogether];
    for (int r = 0; r < kTogether; ++r) {
      rows[r] = block_.rows.coordinates_of(row_[first + r]);
      sums[r] = broadcast(0);
    }
    for (int64_t j = 0; j < c.pitch; j += kLanes)
      for (int r = 0; r < kTogether; ++r)
        add_products_of_pairs(sums[r], load(rows[r] + j), load(centroid + j));
    sums_of_lanes(sums, product_ + first);
  }

  // Of sixteen pairs from `first` on (`pairs`: the lanes in use), pairs whose score is high enough
  // go on to the queue. The scores of all other pairs lower the bounds of their groups: a distance
  // is at least √(norm_below - 2 score).
  void screen(int first, unsigned pairs) {
    const LowerBounds& bounds = block_.search.bounds;
    Sixteen<float> of_row[4], of_centroid[4];
    gather(row_terms_, row_ + first, of_row);
    gather(bounds.terms, place_ + first, of_centroid);
    Sixteen<float> score = of_centroid[1];
    add_products(score, as_floats(load(product_ + first)), times(of_row[0], of_centroid[0]));
    const unsigned candidates = at_least(score, of_row[1]) & pairs;
    const Bytes steps =
        to_steps(keep_lanes(pairs & ~candidates, times_plus(score, -2, of_row[2]), kTooLarge),
                 bounds.per_step, minus(of_centroid[2], of_row[3]));
    for (int r = 0; r < kLanes; ++r) {
      uint8_t& kept = block_.bounds.steps[bound_[first + r]];
      const uint8_t before = kept;
      kept = steps[r] < before ? steps[r] : before;
    }
    float scores[kLanes];
    if (candidates) store(scores, score);
    for (unsigned left = candidates; left; left &= left - 1) {
      const int r = __builtin_ctz(left);
      queue_.add(row_[first + r], place_[first + r], scores[r]);
    }
  }

  const Block<T>& block_;
  PairQueue<T>& queue_;
  alignas(64) float row_terms_[kBlock][4];  // unit, least score, norm_below, base + kFuzz
  int count_ = 0;                           // pairs that wait, 0 to kMost
  int32_t row_[kRoom];                      // of the block
  int32_t place_[kRoom];                    // of the centroid
  int32_t product_[kRoom];                  // z_x·z_c, in units of both
  int32_t bound_[kRoom];                    // index of the pair's byte in StepBounds.steps
};

}  // namespace
}  // namespace km::KM_TARGET
