// Groups of centroids that the lower bounds of an earlier call do not keep from the rows of a block
// (Yinyang's group filter, for 64 rows at once).
#pragma once

#include "kernel/many/costs-inl.h"
#include "kernel/many/pair_filter-inl.h"

namespace km::KM_TARGET {
namespace {

// A group is a candidate for row x where l(x, g) < u(x), compared in steps, as bytes:
//     steps[g][i] < limit[i] + drift_above[g],   limit[i] = u(x) in steps above base[i], rounded up
// Order of calls: limit, find, (limit, find_again,) few, search.
template <typename T>
class CandidateGroups {
 public:
  // groups: memory for all groups of centroids and one more.
  CandidateGroups(Block<T>& block, CandidateGroup* groups) : block_(block), groups_(groups) {}

  // Takes the present upper bounds of a set of rows. Rows that no call of `limit` names have no
  // candidates; neither have rows for which bounds do not hold.
  void limit(uint64_t rows) {
    for (; rows; rows &= rows - 1) limit_row(__builtin_ctzll(rows));
  }
  // Rows whose upper bound is too large for a byte: every group is a candidate.
  uint64_t beyond_bytes() const { return beyond_bytes_; }

  // Finds the candidate groups, after a rebase of all bounds where one is due. Returns the rows
  // that have a candidate.
  uint64_t find() {
    const LowerBounds& bounds = block_.search.bounds;
    if (bounds.rebase) block_.bounds.rebase();
    const uint64_t known = known_;
    return collect(bounds.groups,
                   [&](int64_t g) { return CandidateGroup{candidate_rows(known, g), g}; });
  }

  // Keeps of the candidate groups only pairs with unproven rows; `lowered`: rows whose upper
  // bounds may be lower now, and are compared again.
  void find_again(uint64_t unproven, uint64_t lowered) {
    lowered &= known_;
    unproven &= known_ & ~lowered;
    collect(count_, [&](int64_t n) {
      const CandidateGroup before = groups_[n];
      uint64_t rows = before.rows & unproven;
      if (before.rows & lowered) rows |= candidate_rows(before.rows & lowered, before.group);
      return CandidateGroup{rows, before.group};
    });
  }

  // Whether the candidates are so few that single pairs cost less than a tile of all centroids.
  bool few() const {
    const Search<T>& s = block_.search;
    const float cost =
        s.coordinates.directions ? cost_by_itself(s.coordinates) : cost_of_distance<T>(s);
    return !(cost * static_cast<float>(pairs_) >
             cost_among_all(s.coordinates) * static_cast<float>(s.places.k * block_.rows.count));
  }

  // Decides among the candidates, and writes new lower bounds of their groups. Returns the pairs of
  // a row and a centroid. With directions, pairs are screened first.
  int64_t search() {
    for (uint64_t rows = known_ & beyond_bytes_; rows; rows &= rows - 1) {
      const int i = __builtin_ctzll(rows);
      block_.bounds.set_base(i, block_.root(i));
    }
    PairQueue<T> queue(block_);
    if (block_.search.coordinates.directions) {
      PairFilter<T> filter(block_, queue);
      for_each_centroid([&](uint64_t rows, int64_t place) { filter.add(rows, place); });
      filter.finish();
    } else {
      for_each_centroid([&](uint64_t rows, int64_t place) {
        for (; rows; rows &= rows - 1) queue.add(__builtin_ctzll(rows), place, kInfinity);
      });
    }
    queue.decide();
    compared_ = queue.compared();
    return pairs_;
  }
  // After search: the set of rows that were measured against other centroids than the nearest so
  // far.
  uint64_t compared() const { return compared_; }

 private:
  // u(x) of row i in steps, and the least score that a nearer centroid has. The sum of limit and
  // drift_above, at most kMostSteps + kMostSteps + 1, fits into a byte.
  void limit_row(int i) {
    const uint64_t row = uint64_t{1} << i;
    known_ &= ~row;
    if (!block_.bounds_hold(i)) return;
    const float most = block_.upper_bound(i);
    if (!(block_.measured & row)) block_.least_score[i] = block_.winning_score(i, most * most);
    const float steps = most * block_.search.bounds.per_step - block_.bounds.base[i] + kFuzz;
    const bool fits = steps < kMostSteps;
    limit_[i] = fits ? static_cast<uint8_t>(steps > 0 ? steps + 1 : 1) : 0;
    known_ |= row;
    beyond_bytes_ = fits ? beyond_bytes_ & ~row : beyond_bytes_ | row;
  }

  // The rows of a set for which a group is a candidate.
  uint64_t candidate_rows(uint64_t rows, int64_t group) const {
    const uint8_t drift = block_.search.bounds.drift_above[group];
    return rows & (beyond_bytes_ | lanes_below(block_.bounds.of_group(group), limit_, drift));
  }

  // Lists the groups group_at(0), .. group_at(groups - 1) that have rows, without a branch. Returns
  // the rows of all listed groups.
  template <typename GroupAt>
  uint64_t collect(int64_t groups, const GroupAt& group_at) {
    uint64_t all = 0;
    int64_t count = 0, pairs = 0;
    for (int64_t n = 0; n < groups; ++n) {
      const CandidateGroup group = group_at(n);
      groups_[count] = group;
      count += group.rows != 0;
      pairs += __builtin_popcountll(group.rows);
      all |= group.rows;
    }
    count_ = count;
    pairs_ = pairs * block_.search.bounds.together;
    return all;
  }

  // Calls call(rows, place) for each centroid of each candidate group. The bounds of these rows and
  // groups start from the highest byte: each call lowers the bounds again.
  template <typename Call>
  void for_each_centroid(const Call& call) {
    const Search<T>& s = block_.search;
    for (int64_t n = 0; n < count_; ++n) {
      const CandidateGroup candidate = groups_[n];
      set_bytes(block_.bounds.of_group(candidate.group), candidate.rows);
      const int64_t end = least_of(s.places.k, (candidate.group + 1) * s.bounds.together);
      for (int64_t place = candidate.group * s.bounds.together; place < end; ++place)
        call(candidate.rows, place);
    }
  }

  Block<T>& block_;
  CandidateGroup* const groups_;            // (count_): the candidates
  alignas(64) uint8_t limit_[kBlock] = {};  // u(x) in steps above the base, 1 to kMostSteps
  uint64_t known_ = 0;                      // rows that have a limit, or are beyond bytes
  uint64_t beyond_bytes_ = 0;
  uint64_t compared_ = 0;
  int64_t count_ = 0, pairs_ = 0;  // groups; pairs of a row and a centroid of a group
};

}  // namespace
}  // namespace km::KM_TARGET
