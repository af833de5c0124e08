// The E-step for many features, block by block.
// Included by kernel.inc, once per instruction set.
#pragma once

#include "scores.h"

namespace {

// Rows begin to begin + some of a block, all centroids.
template <typename T>
class Tile {
 public:
  Tile(Block<T>& block, int begin, int some, const km_scratch& scratch)
      : block_(block),
        begin_(begin),
        some_(some),
        columns_(scratch.columns),
        scores_(scratch.scores),
        pairs_(block) {
    fill_columns(block, begin, some, columns_);
    if (!block.s.directions) measure();
  }

  // Warm: rows have a guess. Distances are exact where asked for, or needed.
  void search(bool warm, bool exact) {
    const km_search& s = block_.s;
    exact |= s.k > kMostPlaces || s.directions;  // else a score does not tell the distance
    for (int64_t begin = 0; begin < s.k; begin += kMostPlaces) {
      const int64_t end = least_of(s.k, begin + kMostPlaces);
      Highest all[kRowVectors];
      score_rows(s, columns_, begin, end, scores_, all);
      for (int v = 0; v < kRowVectors; ++v) {
        store(first_ + v * kLanes, all[v].first);
        store(second_ + v * kLanes, all[v].second);
        store(place_ + v * kLanes, all[v].place);
        store(next_ + v * kLanes, all[v].next);
      }
      if (begin == 0) start(warm, exact);
      guess(exact);
      if (open_ || block_.bounds) look(begin, end);
    }
  }

 private:
  void measure() {
    Row squares = {};
    for (int64_t j = 0; j < block_.s.d; ++j)
      for (int v = 0; v < kRowVectors; ++v)
        add_square_of_difference(squares[v], load(columns_ + (j * kRowVectors + v) * kLanes),
                                 Sixteen<float>{});
    float norm[kRowsInLanes];
    for (int v = 0; v < kRowVectors; ++v) store(norm + v * kLanes, squares[v]);
    for (int r = 0; r < some_; ++r) block_.norm[begin_ + r] = norm[r];
  }

  // Rows without a guess take where the score is highest.
  void start(bool warm, bool exact) {
    const km_search& s = block_.s;
    for (int r = 0; r < some_; ++r) {
      const int i = begin_ + r;
      if (warm)
        block_.take(i, block_.position[i], block_.best[i]);
      else if (exact)
        block_.take(i, place_[r], block_.distance_to(i, place_[r]));
      else
        block_.take(i, place_[r], T(block_.norm[i] * (1 + s.margin) - 2 * first_[r]));
      if (!block_.bounds || !block_.good(i)) continue;
      block_.set_base(i);
      nearest_[r] = block_.norm[i] * (1 - s.margin) - kTiny * kTiny;
      base_[r] = block_.base[i] + kFuzz;
    }
  }

  // Looks at where the score is highest, and says which scores are high enough, and for which
  // rows there may be others.
  void guess(bool exact) {
    open_ = 0;
    for (float& limit : limit_) limit = kInfinity;
    for (int r = 0; r < some_; ++r) {
      const int i = begin_ + r;
      if (!block_.good(i)) continue;
      if (place_[r] != block_.position[i] && first_[r] >= block_.enough[i])
        block_.look(i, place_[r]);
      if (exact && second_[r] >= block_.enough[i]) block_.look(i, next_[r]);
      const bool others = second_[r] >= block_.enough[i];
      if (others && !exact) block_.take(i, place_[r], block_.distance_to(i, place_[r]));
      limit_[r] = block_.enough[i];
      open_ |= uint32_t{others} << r;
    }
  }

  // Looks at the centroids whose scores are not too low, and bounds the distances to others.
  void look(int64_t begin, int64_t end) {
    const km_search& s = block_.s;
    Row limit, nearest, base;
    for (int v = 0; v < kRowVectors; ++v) {
      limit[v] = load(limit_ + v * kLanes);
      nearest[v] = load(nearest_ + v * kLanes);
      base[v] = load(base_ + v * kLanes);
    }
    const float* scores = scores_;
    while (begin < end) {
      const int64_t group = block_.bounds ? s.group_of[begin] : 0;
      const int64_t next = block_.bounds ? least_of(end, (group + 1) * s.together) : end;
      Row top;
      for (int v = 0; v < kRowVectors; ++v) top[v] = filled(-kInfinity);
      for (; begin < next; ++begin, scores += kRowsInLanes) {
        uint32_t near = 0;
        for (int v = 0; v < kRowVectors; ++v)
          near |= raise_to_lower(top[v], load(scores + v * kLanes), limit[v]) << (v * kLanes);
        for (near &= open_; near; near &= near - 1) {
          const int r = __builtin_ctz(near);
          pairs_.add(begin_ + r, begin, scores[r]);
        }
      }
      if (!block_.bounds) continue;
      uint8_t* kept = block_.bounds + group * kBlock + begin_;
      for (int v = 0; v < kRowVectors; ++v)
        lower_to_steps(kept + v * kLanes, times_plus(top[v], -2, nearest[v]), s.per_step,
                       s.moved_least[group], base[v]);
    }
    pairs_.look();
  }

  Block<T>& block_;
  const int begin_, some_;
  float *const columns_, *const scores_;
  float first_[kRowsInLanes], second_[kRowsInLanes];  // the highest scores
  int32_t place_[kRowsInLanes], next_[kRowsInLanes];  // and where they are
  float limit_[kRowsInLanes];                         // lower scores are too low
  uint32_t open_;  // rows, a bit each, whose nearest may be another than the first
  float nearest_[kRowsInLanes] = {};       // squared norms, rounded down
  float base_[kRowsInLanes] = {};          // of bounds, in steps
  Pairs<T> pairs_;
};

// Looks at what bounds of an earlier call do not keep off, if that is little; rows have guesses.
// Returns how many pairs of a row and a centroid were looked at, or -1: too many.
template <typename T>
int64_t search_near(Block<T>& block, const km_scratch& scratch) {
  const km_search& s = block.s;
  alignas(64) uint8_t limit[kBlock] = {};
  uint64_t known = 0, lost = 0;  // rows, a bit each
  for (int i = 0; i < block.count; ++i) {
    if (!(block.best[i] < kTooLarge)) continue;
    const float steps = block.root_above(block.best[i]) * s.per_step - block.base[i] + kFuzz;
    known |= uint64_t{1} << i;
    if (steps < kMostSteps) {
      limit[i] = static_cast<uint8_t>(steps > 0 ? steps + 1 : 1);
    } else {
      lost |= uint64_t{1} << i;
      block.set_base(i);
    }
  }
  int64_t groups = 0, pairs = 0;
  for (int64_t g = 0; g < s.groups; ++g) {
    uint8_t* bounds = block.bounds + g * kBlock;
    if (s.settled) take_off(bounds, s.settled[g]);
    const uint64_t rows = known & (lost | below(bounds, limit, s.moved_most[g]));
    scratch.near[groups] = {rows, g};
    groups += rows != 0;
    pairs += __builtin_popcountll(rows) * s.together;
  }
  if (double(pairs) > s.most_pairs * block.count) return -1;
  Pairs<T> list(block);
  for (int64_t n = 0; n < groups; ++n) {
    const km_near near = scratch.near[n];
    fill_up(block.bounds + near.group * kBlock, near.rows);
    const int64_t end = least_of(s.k, (near.group + 1) * s.together);
    for (int64_t where = near.group * s.together; where < end; ++where) {
      if (s.directions)
        block.sift(near.rows, where, list);
      else
        for (uint64_t rows = near.rows; rows; rows &= rows - 1)
          list.add(__builtin_ctzll(rows), where, kInfinity);
    }
  }
  list.look();
  return pairs;
}

// Finds the nearest centroids of the rows of a block, first of all rows; their squared
// distances too if exact. Returns how many pairs of a row and a centroid were looked at.
template <typename T>
int64_t find_nearest(Block<T>& block, int64_t first, const km_result& result, bool exact,
                     const km_scratch& scratch) {
  const km_search& s = block.s;
  if (s.measured) std::memcpy(block.norm, s.norms + first, size_t(block.count) * sizeof(float));
  for (int i = 0; result.warm && i < block.count; ++i) {
    const int64_t guess = s.position[result.labels[first + i]];
    block.take(i, guess, block.distance_to(i, guess));
  }
  if (s.bounded) {
    const int64_t pairs = search_near(block, scratch);
    if (pairs >= 0) return pairs;
  }
  if (s.directions && !s.measured) coordinates_of_block(block, first, scratch);
  if (block.bounds) std::memset(block.bounds, 255, size_t(s.groups * kBlock));
  for (int begin = 0; begin < block.count; begin += kRowsInLanes)
    Tile<T>(block, begin, least_of(kRowsInLanes, block.count - begin), scratch)
        .search(result.warm, exact);
  return block.count * s.k;
}

template <typename T>
int64_t search_block(const km_rows& rows, const km_search& s, int64_t first, int count,
                     const km_result& result, const km_scratch& scratch, double& inertia,
                     int64_t& changed) {
  Block<T> block(rows, s, first, count, scratch);
  const bool exact = result.sums || result.distances;
  const int64_t visits = s.panels ? find_nearest(block, first, result, exact, scratch) : 0;

  for (int i = 0; i < count; ++i) {
    if (!s.panels || !block.good(i)) {
      block.try_all(i);
      for (int64_t g = 0; block.bounds && g < s.groups; ++g) block.bounds[g * kBlock + i] = 0;
    }
    const int64_t row = first + i;
    const T* features = block.row(i);
    int64_t label = s.index[block.position[i]];
    T distance = block.best[i];
    double weight = rows.weights ? rows.weights[row] : 1.0;
    if (rows.cosine) {
      distance /= 2;
      bool zero = true;
      for (int64_t j = 0; j < s.d && zero; ++j) zero = features[j] == 0;
      if (zero) {
        distance = 1;
        label = 0;
        weight = 0;
      }
    }
    changed += !result.warm || result.labels[row] != label;
    result.labels[row] = label;
    if (result.distances) static_cast<T*>(result.distances)[row] = distance;
    if (!result.sums) {
      inertia += distance;
      continue;
    }
    inertia += weight * distance;
    result.counts[label] += weight;
    double* sum = result.sums + label * s.d;
    for (int64_t j = 0; j < s.d; ++j) sum[j] += weight * features[j];
  }
  return visits;
}

template <typename T>
int64_t search_rows(const km_rows& rows, const km_search& s, int64_t begin, int64_t end,
                    const km_result& result, const km_scratch& scratch) {
  int64_t visits = 0, changed = 0;
  double inertia = 0;
  for (int64_t first = begin; first < end; first += kBlock) {
    const int count = static_cast<int>(least_of<int64_t>(kBlock, end - first));
    visits += search_block<T>(rows, s, first, count, result, scratch, inertia, changed);
  }
  *result.inertia = inertia;
  *result.changed = changed;
  return visits;
}

}  // namespace
