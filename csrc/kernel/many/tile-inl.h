// Rows that are measured against all centroids together.
//
#pragma once

#include "kernel/many/pairs-inl.h"
#include "kernel/many/scores-inl.h"

namespace km::KM_TARGET {
namespace {

// Up to kRowsInLanes rows of a block, which follow each other where there are bounds.
template <typename T>
class Tile {
 public:
  Tile(Block<T>& block, const uint8_t* which, int some, const Scratch<T>& scratch)
      : block_(block), which_(which), some_(some), scores_(scratch.scores) {
    fill_columns(block, which, some, scratch, columns_);
  }

  // All centroids. Warm: rows have a guess. Distances are exact where asked for, or needed.
  void search(bool warm, bool exact, Pairs<T>& pairs) {
    const Search<T>& s = block_.s;
    exact |= s.places.k > kMostPlaces ||
             s.coordinates.directions;  // else a score does not tell the distance
    for (int64_t begin = 0; begin < s.places.k; begin += kMostPlaces) {
      const int64_t end = least_of(s.places.k, begin + kMostPlaces);
      Highest all[kRowVectors];
      score_rows(s.coordinates, columns_, begin, end, scores_, all);
      for (int v = 0; v < kRowVectors; ++v) {
        store(first_ + v * kLanes, all[v].first);
        store(second_ + v * kLanes, all[v].second);
        store(place_ + v * kLanes, all[v].place);
        store(next_ + v * kLanes, all[v].next);
      }
      if (begin == 0) start(warm, exact);
      guess(exact);
      if (block_.bounds)
        look_and_bound(begin, end, pairs);
      else if (open_)
        look(begin, end, pairs);
      pairs.look();
    }
  }

 private:
  // Rows without a guess take where the score is highest.
  void start(bool warm, bool exact) {
    for (int r = 0; r < some_; ++r) {
      const int i = which_[r];
      if (warm)
        block_.take(i, block_.place[i], block_.best[i]);
      else if (exact)
        block_.take(i, place_[r], block_.distance_to(i, place_[r]));
      else
        block_.take(i, place_[r], most_distance(i, place_[r], first_[r]));
      if (!block_.bounds || !block_.good(i)) continue;
      block_.set_base(i);
      nearest_[r] = block_.least_norm(i);
      base_[r] = block_.base[i] + kFuzz;
    }
  }

  // The largest squared distance that a score leaves possible: -2 offset is the centroid's squared
  // norm, less a margin.
  T most_distance(int i, int32_t where, float score) const {
    const float margin = 2 * block_.s.coordinates.margin;
    const float norms = block_.norm[i] * (1 + margin) -
                        2 * margin * (1 + margin) * block_.s.coordinates.offsets[where];
    return T(norms - 2 * score);
  }

  // Looks at where the score is highest, and says which scores are high enough, and for which
  // rows there may be others.
  void guess(bool exact) {
    open_ = 0;
    for (float& limit : limit_) limit = kInfinity;
    for (int r = 0; r < some_; ++r) {
      const int i = which_[r];
      if (!block_.good(i)) continue;
      if (place_[r] != block_.place[i] && first_[r] >= block_.enough[i]) block_.look(i, place_[r]);
      if (exact && second_[r] >= block_.enough[i]) block_.look(i, next_[r]);
      const bool others = second_[r] >= block_.enough[i];
      if (others && !exact) block_.take(i, place_[r], block_.distance_to(i, place_[r]));
      limit_[r] = block_.enough[i];
      open_ |= uint32_t{others} << r;
    }
  }

  // Looks at the centroids whose scores are not too low.
  void look(int64_t begin, int64_t end, Pairs<T>& pairs) {
    Row limit;
    for (int v = 0; v < kRowVectors; ++v) limit[v] = load(limit_ + v * kLanes);
    const float* scores = scores_;
    for (; begin < end; ++begin, scores += kRowsInLanes) {
      uint32_t near = 0;
      for (int v = 0; v < kRowVectors; ++v)
        near |= at_least(load(scores + v * kLanes), limit[v]) << (v * kLanes);
      for (near &= open_; near; near &= near - 1) {
        const int r = __builtin_ctz(near);
        pairs.add(which_[r], begin, scores[r]);
      }
    }
  }

  // The same, and bounds the distances to others.
  void look_and_bound(int64_t begin, int64_t end, Pairs<T>& pairs) {
    const Search<T>& s = block_.s;
    Row limit, nearest, base;
    for (int v = 0; v < kRowVectors; ++v) {
      limit[v] = load(limit_ + v * kLanes);
      nearest[v] = load(nearest_ + v * kLanes);
      base[v] = load(base_ + v * kLanes);
    }
    const float* scores = scores_;
    while (begin < end) {
      const int64_t group = s.bounds.group_of[begin];
      const int64_t next = least_of(end, (group + 1) * s.bounds.together);
      Row top;
      for (int v = 0; v < kRowVectors; ++v) top[v] = broadcast(-kInfinity);
      for (; begin < next; ++begin, scores += kRowsInLanes) {
        uint32_t near = 0;
        for (int v = 0; v < kRowVectors; ++v)
          near |= raise_to_scores_below(top[v], load(scores + v * kLanes), limit[v])
                  << (v * kLanes);
        for (near &= open_; near; near &= near - 1) {
          const int r = __builtin_ctz(near);
          pairs.add(which_[r], begin, scores[r]);
        }
      }
      uint8_t* kept = block_.bounds + group * kBlock + which_[0];
      for (int v = 0; v < kRowVectors; ++v)
        lower_to_steps(kept + v * kLanes, times_plus(top[v], -2, nearest[v]), s.bounds.per_step,
                       minus(broadcast(s.bounds.drift_below[group]), base[v]));
    }
  }

  Block<T>& block_;
  const uint8_t* const which_;
  const int some_;
  Columns columns_;
  float* const scores_;
  float first_[kRowsInLanes], second_[kRowsInLanes];  // the highest scores
  int32_t place_[kRowsInLanes], next_[kRowsInLanes];  // and where they are
  float limit_[kRowsInLanes] = {};                    // lower scores are too low
  uint32_t open_;  // rows, a bit each, whose nearest may be another than the first
  float nearest_[kRowsInLanes] = {};  // squared norms, rounded down
  float base_[kRowsInLanes] = {};     // of bounds, in steps
};

}  // namespace
}  // namespace km::KM_TARGET
