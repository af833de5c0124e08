// Lower bounds of the rows of one block, a byte each: see LowerBounds, which draws the scale.
//
// The 64 bytes of one group and one block stand side by side, a row each, so that one comparison of
// vectors tells which rows of the block may be near the group:
//
//                 row 0   row 1   row 2   ...   row 63
//     group 0   [  255  |  40   |  33   |  ..  |  18   ]   64 bytes: one or two vectors
//     group 1   [   31  | 255   |  90   |  ..  |  77   ]   in steps above base[row]
//       ...
//     group G-1 [   60  |  52   | 255   |  ..  |  20   ]
//     base      [  7.5  |  9.1  |  3.3  |  ..  |  6.0  ]   64 floats, in steps
#pragma once

#include "kernel/many/margins-inl.h"
#include "kernel/simd/bytes64-inl.h"

namespace km::KM_TARGET {
namespace {

// Part of a step that sums of step counts may lose to rounding. (What rounding loses relative to
// the distances themselves is in Coordinates.slack.)
constexpr float kFuzz = 1e-3f;

// Steps from the base of a row to its distance: room below, for bounds of a row that comes nearer
// to its centroid in later calls.
constexpr float kStepsToDistance = 32;

static_assert(kBlock == 64);  // a line of bytes64-inl.h

// Makes and keeps the lower bounds of one block. The constructor is its maker.
struct StepBounds {
  StepBounds(const LowerBounds& of_all, int64_t first)
      : all(of_all),
        steps(of_all.steps ? of_all.steps + first * of_all.groups : nullptr),
        base(of_all.steps ? of_all.base + first : nullptr) {}

  uint8_t* of_group(int64_t group) const { return steps + group * kBlock; }

  // Counts the bounds of row i from its distance to its centroid on, an upper bound, not squared.
  void set_base(int i, float distance) const {
    base[i] = distance * all.per_step - kStepsToDistance;
  }

  // A lower bound on the distance of row i to a centroid of a group, as a byte: rounded down, and
  // raised by the drift that readers subtract. 0 says nothing.
  uint8_t in_steps(int i, int64_t group, float distance) const {
    const float count = distance * all.per_step + (all.drift_below[group] - base[i]) - kFuzz;
    const float from_0 = count > 0 ? count : 0;
    return static_cast<uint8_t>(static_cast<int>(from_0 < 255 ? from_0 : 255));
  }

  // Lowers the bound of row i and the group of a place: the centroid there is at least `distance`
  // (not squared) away. Does nothing where no bounds are kept.
  void lower(int i, int64_t place, float distance) const {
    if (!steps) return;
    const int64_t group = all.group_of[place];
    uint8_t& kept = of_group(group)[i];
    kept = least_of(kept, in_steps(i, group, distance));
  }

  // Subtracts from every bound, down to 0, the steps that the drift of its group is rebased by.
  void rebase() const {
    for (int64_t group = 0; group < all.groups; ++group)
      subtract_saturated(of_group(group), all.rebase[group]);
  }

  // Sets all bounds to the highest byte, from where a search lowers them, centroid by centroid.
  void raise_all() const { std::memset(steps, 255, size_t(all.groups * kBlock)); }

  // Bounds of `count` rows from row i on that say nothing.
  void clear(int i, int count) const {
    for (int64_t group = 0; group < all.groups; ++group)
      std::memset(of_group(group) + i, 0, size_t(count));
  }

  const LowerBounds& all;
  uint8_t* const steps;  // (groups, kBlock), or null
  float* const base;     // (kBlock), in steps, or null
};

}  // namespace
}  // namespace km::KM_TARGET
