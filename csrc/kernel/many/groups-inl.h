// Groups of centroids that bounds do not keep off rows.
#pragma once

#include "kernel/many/costs-inl.h"
#include "kernel/many/pair_filter-inl.h"

namespace km::KM_TARGET {
namespace {

// Groups of centroids that bounds of an earlier call do not keep off rows of a block.
template <typename T>
class Nearby {
 public:
  Nearby(Block<T>& block, NearGroup* near) : block_(block), near_(near) {}

  // Takes a row, as far from its centroid as is known.
  void limit(int i) {
    const uint64_t row = uint64_t{1} << i;
    known_ &= ~row;
    if (!block_.good(i)) return;
    const float far = block_.farthest(i);
    if (!(block_.measured & row)) block_.enough[i] = block_.enough_for(block_.norm[i], far * far);
    const float steps = far * block_.s.bounds.per_step - block_.base[i] + kFuzz;
    const bool counts = steps < kMostSteps;
    limit_[i] = counts ? static_cast<uint8_t>(steps > 0 ? steps + 1 : 1) : 0;
    known_ |= row;
    lost_ = counts ? lost_ & ~row : lost_ | row;
  }
  // Rows that are too far from their centroid for steps.
  uint64_t lost() const { return lost_; }

  // Finds the groups; returns the rows, a bit each, that are near any.
  uint64_t find() {
    const Search<T>& s = block_.s;
    if (s.bounds.rebase)
      for (int64_t g = 0; g < s.bounds.groups; ++g)
        subtract_saturated(block_.bounds + g * kBlock, s.bounds.rebase[g]);
    const uint64_t known = known_;
    return choose(s.bounds.groups, [&](int64_t g) { return NearGroup{near_rows(known, g), g}; });
  }

  // Keeps, of those that were found, what open rows are near; again: whose limits may be lower.
  void find_again(uint64_t open, uint64_t again) {
    again &= known_;
    open &= known_ & ~again;
    choose(count_, [&](int64_t n) {
      const NearGroup before = near_[n];
      uint64_t rows = before.rows & open;
      if (before.rows & again) rows |= near_rows(before.rows & again, before.group);
      return NearGroup{rows, before.group};
    });
  }

  // Looks at the centroids of these groups, if they are few. Returns how many pairs of a row and a
  // centroid were measured, or -1: too many.
  int64_t search() {
    const Search<T>& s = block_.s;
    const float cost =
        s.coordinates.directions ? cost_by_itself(s.coordinates) : cost_of_distance<T>(s);
    if (cost * static_cast<float>(pairs_) >
        cost_among_all(s.coordinates) * static_cast<float>(s.places.k * block_.count))
      return -1;
    for (uint64_t rows = known_ & lost_; rows; rows &= rows - 1)
      block_.set_base(__builtin_ctzll(rows));
    Pairs<T> list(block_);
    if (s.coordinates.directions) {
      Sift<T> sift(block_, list);
      for_each_centroid([&](uint64_t rows, int64_t where) { sift.add(rows, where); });
      sift.finish();
    } else {
      for_each_centroid([&](uint64_t rows, int64_t where) {
        for (; rows; rows &= rows - 1) list.add(__builtin_ctzll(rows), where, kInfinity);
      });
    }
    list.look();
    compared_ = list.rows();
    return pairs_;
  }
  // Rows that were measured against others than their centroid.
  uint64_t compared() const { return compared_; }

 private:
  // Those of some rows that are near a group.
  uint64_t near_rows(uint64_t rows, int64_t group) const {
    const Search<T>& s = block_.s;
    return rows & (lost_ | lanes_below(block_.bounds + group * kBlock, limit_,
                                       s.bounds.drift_above[group]));
  }

  // Takes those of so many groups that rows are near; returns these rows.
  template <typename Near>
  uint64_t choose(int64_t groups, const Near& near) {
    uint64_t all = 0;
    int64_t count = 0, pairs = 0;
    for (int64_t n = 0; n < groups; ++n) {
      const NearGroup found = near(n);
      near_[count] = found;
      count += found.rows != 0;
      pairs += __builtin_popcountll(found.rows);
      all |= found.rows;
    }
    count_ = count;
    pairs_ = pairs * block_.s.bounds.together;
    return all;
  }

  // Calls something with the rows near a group and with each of its centroids, which all get new
  // bounds.
  template <typename Call>
  void for_each_centroid(const Call& call) {
    const Search<T>& s = block_.s;
    for (int64_t n = 0; n < count_; ++n) {
      const NearGroup near = near_[n];
      set_bytes(block_.bounds + near.group * kBlock, near.rows);
      const int64_t end = least_of(s.places.k, (near.group + 1) * s.bounds.together);
      for (int64_t where = near.group * s.bounds.together; where < end; ++where)
        call(near.rows, where);
    }
  }

  Block<T>& block_;
  NearGroup* const near_;
  alignas(64) uint8_t limit_[kBlock] = {};  // in steps
  uint64_t known_ = 0, lost_ = 0;           // rows that have one; that are too far away for it
  uint64_t compared_ = 0;
  int64_t count_ = 0, pairs_ = 0;
};

}  // namespace
}  // namespace km::KM_TARGET
