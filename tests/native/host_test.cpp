// Walks through the states of csrc/README.md, "Which bounds are kept when", and unites boxes; built
// by tests/backends/test_host.py. Prints each promise that does not hold, and returns how many.
#include <cstdio>
#include <vector>

#include "host/cells.h"
#include "host/policy.h"

namespace {

using km::Kept;
using km::Policy;

int failures = 0;

void check(bool holds, const char* promise) {
  if (holds) return;
  ++failures;
  std::printf("not so: %s\n", promise);
}

constexpr int64_t kRows = 1000, kCentroids = 32, kPairs = kRows * kCentroids;

// A call as SearchMaker<T> makes one, but for the rows: what the policy answers, and what the
// search is told to have measured.
class Caller {
 public:
  // Measures so many pairs, keeps so many rows at their centroid by gaps, and changes so many
  // labels.
  void call(int64_t pairs, int64_t proven, int64_t changed, bool warm = true) {
    km::Search<float> s = {};
    s.places.k = s.places.count = kCentroids;
    kept = policy.begin(warm);
    lower = policy.lower_bounds_pay(directions, coordinates);
    if (kept == Kept::kBothBounds && !lower) kept = Kept::kUpperBounds;
    gaps = warm && policy.gaps_pay(kCentroids, kRows);
    pairwise = gaps && policy.pairwise_gaps_pay(kCentroids, kCentroids, directions, lower, 1);
    skips = policy.rows_may_be_skipped(kept, lower, gaps);
    if (lower) s.bounds.steps = &step;
    s.bounds.valid = kept == Kept::kBothBounds;
    if (gaps) s.gaps.nearest = &gap;
    if (pairwise) s.gaps.pairwise = &gap;
    s.upper.reach = reach.data();
    km::Seen seen = {};
    seen.pairs = pairs;
    seen.proven = proven;
    policy.finish(s, kRows, seen, changed);
    policy.note_inertia(true);
  }

  Policy policy;
  bool directions = false, coordinates = false;
  Kept kept = Kept::kNothing;
  bool lower = false, gaps = false, pairwise = false, skips = false;

 private:
  uint8_t step = 0;
  float gap = 0;
  std::vector<float> reach = std::vector<float>(kRows, 2.0f);
};

void pairwise_gaps_are_rented_until_lower_bounds_are_bought() {
  Caller c;
  c.call(kPairs, 0, kRows, false);
  check(c.kept == Kept::kNothing && !c.lower && !c.gaps && !c.skips, "a first call has no bounds");
  check(c.policy.typical_distance() == 2, "the first call tells a typical distance");
  c.call(kPairs / 50, kRows / 2, 0);
  check(c.kept == Kept::kUpperBounds && c.pairwise && !c.lower, "pairwise gaps come first");
  check(c.skips, "gaps prove labels");
  c.call(kPairs / 50, kRows / 2, kRows / 2);
  check(c.pairwise, "1.6 % of rent is not the price");
  for (int call = 0; call < 4; ++call) c.call(kPairs / 50, kRows / 2, 0);
  check(c.pairwise && !c.lower, "calls that changed many labels set the rent back");
  c.call(kPairs / 50, kRows / 2, 0);
  check(c.lower && !c.pairwise && c.gaps, "the price is paid: lower bounds are written");
  check(c.kept == Kept::kUpperBounds && !c.skips,
        "lower bounds that are only written prove nothing");
  c.call(kPairs / 50, kRows / 2, 0);
  check(c.kept == Kept::kBothBounds && c.lower && c.skips,
        "lower bounds are read in the next call");
}

void pairwise_gaps_that_leave_most_pairs_give_way_at_once() {
  Caller c;
  c.call(kPairs, 0, kRows, false);
  c.call(kPairs * 7 / 10, kRows / 2, kRows / 2);
  check(c.pairwise, "pairwise gaps are tried");
  c.call(kPairs / 50, kRows / 2, 0);
  check(c.lower && !c.pairwise, "they left 70 % of the pairs");
}

void lower_bounds_that_discard_nothing_rest_for_two_calls() {
  Caller c;
  c.directions = c.coordinates = true;
  c.call(kPairs, 0, kRows, false);
  c.call(kPairs, kRows / 2, 0);
  check(c.lower && c.kept == Kept::kUpperBounds && !c.pairwise,
        "along directions they are written");
  c.call(kPairs, kRows / 2, 0);
  check(c.kept == Kept::kBothBounds, "and read");
  for (int call = 0; call < 2; ++call) {
    c.call(kPairs, kRows / 2, 0);
    check(!c.lower && c.kept == Kept::kUpperBounds && c.skips, "they rest; gaps prove labels");
  }
  c.call(kPairs, kRows / 2, 0);
  check(c.lower && c.kept == Kept::kUpperBounds, "they are written again");
  c.coordinates = false;
  c.call(kPairs, kRows / 2, 0);
  check(!c.lower, "without the rows' coordinates in memory there are none");
}

void gaps_that_keep_few_rows_rest_for_eight_calls() {
  Caller c;
  c.directions = c.coordinates = true;
  c.call(kPairs, 0, kRows, false);
  c.call(kPairs / 2, kRows / 100, 0);
  check(c.gaps, "gaps are tried");
  for (int call = 0; call < 8; ++call) {
    c.call(kPairs / 2, 0, 0);
    check(!c.gaps, "gaps rest");
  }
  c.call(kPairs / 2, 0, 0);
  check(c.gaps, "gaps are tried again");
  check(!c.policy.gaps_pay(kCentroids, 16 * kCentroids - 1), "not for fewer than 16 rows each");
}

void bounds_are_lost_with_labels_memory_and_failures() {
  Caller c;
  c.directions = c.coordinates = true;
  auto both = [&] {
    for (int call = 0; call < 3; ++call) c.call(kPairs / 2, kRows / 2, 0);
    return c.kept == Kept::kBothBounds;
  };
  c.call(kPairs, 0, kRows, false);
  check(both(), "both bounds are kept");
  c.policy.lose_lower_bounds();
  c.call(kPairs / 2, kRows / 2, 0);
  check(c.kept == Kept::kUpperBounds, "seeding takes the lower bounds alone");
  check(both(), "both bounds are kept again");
  c.call(kPairs / 2, kRows / 2, 0, false);
  check(c.kept == Kept::kNothing, "new labels have no bounds");
  check(both(), "both bounds are kept after new labels");
  c.policy.begin(true);  // and no finish
  c.call(kPairs / 2, kRows / 2, 0);
  check(c.kept == Kept::kNothing && !c.skips, "a call that failed leaves no bounds");
  check(both(), "both bounds are kept after a failure");
  c.policy.note_inertia(false);
  c.call(kPairs / 2, kRows / 2, 0);
  check(c.kept == Kept::kBothBounds && !c.skips,
        "no row is skipped if sums do not tell the inertia");
  c.policy.restart();
  c.call(kPairs / 2, kRows / 2, 0);
  check(c.kept == Kept::kNothing && !c.lower, "another k begins anew");
}

// A part without rows, where there are more threads than blocks, has an empty box.
void an_empty_box_adds_nothing() {
  const float rows[2][2] = {{1, 5}, {3, 2}};
  km::Box<float, 2> box, of_rows;
  for (const auto& row : rows) of_rows.add(row);
  box.add(km::Box<float, 2>());
  box.add(of_rows);
  box.add(km::Box<float, 2>());
  check(box.low[0] == 1 && box.low[1] == 2 && box.high[0] == 3 && box.high[1] == 5,
        "an empty box adds nothing");
}

}  // namespace

int main() {
  an_empty_box_adds_nothing();
  pairwise_gaps_are_rented_until_lower_bounds_are_bought();
  pairwise_gaps_that_leave_most_pairs_give_way_at_once();
  lower_bounds_that_discard_nothing_rest_for_two_calls();
  gaps_that_keep_few_rows_rest_for_eight_calls();
  bounds_are_lost_with_labels_memory_and_failures();
  return failures;
}
