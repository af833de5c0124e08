// Rows that are scored against all centroids together, where no bound discards enough of them.
//
// A tile is a table of scores. The two highest of each row are found on the way, so that a row
// whose second score is too low is decided by one distance, without reading the table:
//
//                     lane 0    lane 1    ...    lane 31      (rows of the block: rows_[0], ...)
//     place 0       [  score  |  score  |      |  score  ]  |
//     place 1       [         |         |      |         ]  |  group 0: bounded by its highest
//       ...                                                 |  score below the row's least score
//     place t - 1   [         |         |      |         ]  |
//     place t       [         |         |      |         ]  |  group 1; t = LowerBounds.together
//       ...
//     place 1023                                               then the next kMostPlaces places
#pragma once

#include "kernel/many/pair_queue-inl.h"
#include "kernel/many/scores-inl.h"

namespace km::KM_TARGET {
namespace {

// TopTwo of all rows of a tile, in memory. `take` is the maker.
struct TopTwoInMemory {
  void take(const TopTwo (&top)[kRowVectors]) {
    for (int v = 0; v < kRowVectors; ++v) {
      store(highest + v * kLanes, top[v].highest);
      store(second + v * kLanes, top[v].second);
      store(highest_place + v * kLanes, top[v].highest_place);
      store(second_place + v * kLanes, top[v].second_place);
    }
  }
  float highest[kRowsInLanes], second[kRowsInLanes];
  int32_t highest_place[kRowsInLanes], second_place[kRowsInLanes];
};

// Up to kRowsInLanes rows of a block, consecutive ones where lower bounds are written, since a
// vector of bytes is written at once. The constructor is the maker; `search` does all.
template <typename T>
class Tile {
 public:
  // which (count): rows of the block, ascending; 1 <= count <= kRowsInLanes. The block has read its
  // rows and, along directions, found their coordinates.
  Tile(Block<T>& block, const uint8_t* which, int count, const Scratch<T>& scratch)
      : block_(block), rows_(which), count_(count), scores_(scratch.scores) {
    fill_tile(block.rows, which, count, scratch, coordinates_);
  }

  // Searches all centroids. warm: rows have a nearest centroid so far. wants_distances: distances
  // are wanted beside labels; else a row whose highest score is clear of the second gets a bound
  // for distance.
  void search(bool warm, bool wants_distances, PairQueue<T>& queue) {
    const Search<T>& s = block_.search;
    // Along directions a score leaves the distance open, and a second run of places compares with
    // it.
    wants_distances |= s.places.k > kMostPlaces || s.coordinates.directions;
    for (int64_t begin = 0; begin < s.places.k; begin += kMostPlaces) {
      const int64_t end = least_of(s.places.k, begin + kMostPlaces);
      TopTwo top[kRowVectors];
      score_rows(s.coordinates, coordinates_, begin, end, scores_, top);
      top_.take(top);
      if (begin == 0) start(warm, wants_distances);
      decide_top(wants_distances);
      if (block_.bounds.steps)
        screen_and_bound(begin, end, queue);
      else if (open_)
        screen(begin, end, queue);
      queue.decide();
    }
  }

 private:
  // Gives each row a nearest centroid so far: the last call's (warm), or the one of the highest
  // score. Sets the base of its lower bounds.
  void start(bool warm, bool wants_distances) {
    for (int r = 0; r < count_; ++r) {
      const int i = rows_[r];
      const int32_t place = top_.highest_place[r];
      if (warm)  // again, for its least score: without directions a tile alone knows the norm
        block_.set_nearest(i, block_.nearest[i], block_.distance[i]);
      else if (wants_distances)
        block_.set_nearest(i, place, block_.distance_to(i, place));
      else
        block_.set_nearest(i, place, most_distance(i, place, top_.highest[r]));
      if (!block_.bounds.steps || !block_.bounds_hold(i)) continue;
      block_.bounds.set_base(i, block_.root(i));
      norm_below_[r] = norm_below(block_.search.coordinates, block_.rows.norm[i]);
      base_[r] = block_.bounds.base[i] + kFuzz;
    }
  }

  // The largest squared distance that a score leaves possible, ‖x‖² + ‖c‖² - 2 z·z and a margin of
  // both norms; -2 offset is the centroid's squared norm, less a margin.
  T most_distance(int i, int32_t place, float score) const {
    const Coordinates& c = block_.search.coordinates;
    const float margin = 2 * c.margin;
    const float norms =
        block_.rows.norm[i] * (1 + margin) - 2 * margin * (1 + margin) * c.offsets[place];
    return T(norms - 2 * score);
  }

  // Measures the centroids of the highest scores. Sets the least score of each row, and the open
  // rows: rows with two or more centroids whose scores are at least that.
  void decide_top(bool wants_distances) {
    open_ = 0;
    for (float& score : least_score_) score = kInfinity;
    for (int r = 0; r < count_; ++r) {
      const int i = rows_[r];
      if (!block_.bounds_hold(i)) continue;
      const int32_t place = top_.highest_place[r];
      if (place != block_.nearest[i] && top_.highest[r] >= block_.least_score[i])
        block_.decide(i, place);
      if (wants_distances && top_.second[r] >= block_.least_score[i])
        block_.decide(i, top_.second_place[r]);
      const bool several = top_.second[r] >= block_.least_score[i];
      if (several && !wants_distances) block_.set_nearest(i, place, block_.distance_to(i, place));
      least_score_[r] = block_.least_score[i];
      open_ |= uint32_t{several} << r;
    }
  }

  // Queues the pairs of open rows and centroids, places begin to end, whose score is high enough.
  void screen(int64_t begin, int64_t end, PairQueue<T>& queue) {
    PerRow least;
    for (int v = 0; v < kRowVectors; ++v) least[v] = load(least_score_ + v * kLanes);
    const float* scores = scores_;
    for (; begin < end; ++begin, scores += kRowsInLanes) {
      uint32_t candidates = 0;
      for (int v = 0; v < kRowVectors; ++v)
        candidates |= at_least(load(scores + v * kLanes), least[v]) << (v * kLanes);
      for (candidates &= open_; candidates; candidates &= candidates - 1) {
        const int r = __builtin_ctz(candidates);
        queue.add(rows_[r], begin, scores[r]);
      }
    }
  }

  // Queues what `screen` queues, and lowers the bound of each group by the highest score too low:
  // √(norm_below - 2 score). Scores that are high enough are bounded by their distances instead.
  void screen_and_bound(int64_t begin, int64_t end, PairQueue<T>& queue) {
    const LowerBounds& bounds = block_.search.bounds;
    PerRow least, norm, base;
    for (int v = 0; v < kRowVectors; ++v) {
      least[v] = load(least_score_ + v * kLanes);
      norm[v] = load(norm_below_ + v * kLanes);
      base[v] = load(base_ + v * kLanes);
    }
    const float* scores = scores_;
    while (begin < end) {
      const int64_t group = bounds.group_of[begin];
      const int64_t next = least_of(end, (group + 1) * bounds.together);
      PerRow top;
      for (int v = 0; v < kRowVectors; ++v) top[v] = broadcast(-kInfinity);
      for (; begin < next; ++begin, scores += kRowsInLanes) {
        uint32_t candidates = 0;
        for (int v = 0; v < kRowVectors; ++v)
          candidates |= raise_to_scores_below(top[v], load(scores + v * kLanes), least[v])
                        << (v * kLanes);
        for (candidates &= open_; candidates; candidates &= candidates - 1) {
          const int r = __builtin_ctz(candidates);
          queue.add(rows_[r], begin, scores[r]);
        }
      }
      uint8_t* kept = block_.bounds.of_group(group) + rows_[0];
      for (int v = 0; v < kRowVectors; ++v)
        lower_to_steps(kept + v * kLanes, times_plus(top[v], -2, norm[v]), bounds.per_step,
                       minus(broadcast(bounds.drift_below[group]), base[v]));
    }
  }

  Block<T>& block_;
  const uint8_t* const rows_;  // (count_)
  const int count_;
  TileCoordinates coordinates_;
  float* const scores_;  // (places of a run, kRowsInLanes)
  TopTwoInMemory top_;
  float least_score_[kRowsInLanes] = {};  // as Block.least_score; infinity where bounds do not hold
  uint32_t open_;                         // rows of the tile, a bit each
  float norm_below_[kRowsInLanes] = {};   // ‖x‖², rounded down
  float base_[kRowsInLanes] = {};         // of lower bounds, in steps, and kFuzz
};

}  // namespace
}  // namespace km::KM_TARGET
