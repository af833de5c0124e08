// Which bounds are kept, written and read in which call. None of it changes a label: bounds only
// discard. The states and their transitions are a table in csrc/README.md.
#pragma once

#include <cstdint>

#include "kernel/many/search.h"

namespace km {

// Memory for each thread, 40 MiB, that lower bounds may take beyond what each row may, or the gaps
// of all pairs instead of them. It lets small problems have a bound for each row and centroid (a
// million rows of 40 centroids), while n · k bytes of large ones are never asked for.
constexpr int64_t kBytesOfThread = 40 << 20;

// Bounds in memory that hold for the labels of the last call. A call that writes lower bounds
// writes upper ones too, so that there is no state of lower bounds alone.
enum class Kept {
  kNothing,      // labels are new, or the call kept nothing
  kUpperBounds,  // reach (n), and the centroids that it refers to
  kBothBounds,   // and steps (n, groups) of the groups of the last call
};

// Which screen discards centroids where coordinates are the features themselves. Both at once would
// discard little more than one. Along directions, lower bounds are the only screen.
enum class Screen {
  kPairwiseGaps,  // the gaps of all pairs of centroids: computed anew, nothing kept
  kLowerBounds,   // a byte for each row and group: read and written by each call
};

// What the last search has measured.
struct LastSearch {
  double share_visited = 1;   // of the pairs of a row and a centroid
  double share_compared = 0;  // rows measured against other centroids than that of their label
};

class Policy {
 public:
  // The number of rows or of centroids is another one: all states are the first ones.
  void restart();

  // A call begins. follows: the call is given the labels of the last one, and keeps bounds.
  // Returns which bounds hold. Until finish none do, since a call that fails may have changed them.
  Kept begin(bool follows);

  // Whether this call should have lower bounds. directions: coordinates are not the features;
  // coordinates_kept: there is memory for the coordinates of the rows.
  bool lower_bounds_pay(bool directions, bool coordinates_kept) const;
  // Whether this call should have the gap of each centroid to the nearest other one.
  bool gaps_pay(int64_t k, int64_t n) const;
  // Whether this call should have the gaps of all pairs of k centroids at so many places.
  bool pairwise_gaps_pay(int64_t k, int64_t places, bool directions, bool lower_bounds,
                         int threads) const;
  // Whether a row that upper bounds prove to keep its label need not be read.
  bool rows_may_be_skipped(Kept kept, bool lower_bounds, bool gaps) const;

  // The search s of n rows is over: seen says what was measured, changed how many labels.
  template <typename T>
  void finish(const Search<T>& s, int64_t n, const Seen& seen, int64_t changed);

  // The memory of lower bounds is given back.
  void lose_lower_bounds();
  // Whether the last inertia followed from sums of clusters: only then may rows be skipped.
  void note_inertia(bool follows_from_sums) { inertia_follows_ = follows_from_sums; }

  const LastSearch& last() const { return last_; }
  // Median distance of the rows to their centroids as of the last call that left no lower
  // bounds; 0 where it is not known: then a step would have no length, and there are no lower
  // bounds.
  double typical_distance() const { return typical_distance_; }

 private:
  void count_down();
  void suspend_lower_bounds();
  void weigh_pairwise_gaps(bool few_changed);
  void suspend_gaps();
  void take_typical_distance(const float* reach, int64_t n);

  Kept kept_ = Kept::kNothing;
  Screen screen_ = Screen::kPairwiseGaps;
  int calls_without_lower_bounds_ = 0, calls_without_gaps_ = 0;  // to come, before the next try
  double spent_on_gaps_ = 0;  // rent so far, in shares of all pairs (weigh_pairwise_gaps)
  double typical_distance_ = 0;
  LastSearch last_;
  bool inertia_follows_ = false;
};

}  // namespace km
