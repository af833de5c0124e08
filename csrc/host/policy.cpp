#include "host/policy.h"

#include <algorithm>
#include <vector>

namespace km {

namespace {

// Where lower bounds leave more than this share of all pairs, reading and writing the bounds costs
// more than the pairs that they discard, 2 %.
constexpr double kMostVisited = 0.98;
// The next calls then have no lower bounds. In the first calls of a fit centroids move too far for
// bounds to last; a longer pause would miss the calls in which centroids begin to move little.
constexpr int kCallsWithoutLowerBounds = 2;

// Where gaps prove the labels of fewer rows than this share, computing the gaps costs more than the
// rows that they spare: k² scores, at most a sixteenth of the n k scores of a search
// (kRowsOfCentroid).
constexpr double kFewRowsKept = 0.02;
// The next calls then have no gaps: to try again in each ninth call costs 1/9 · 1/16 of a search.
constexpr int kCallsWithoutGaps = 8;
constexpr int64_t kRowsOfCentroid = 16;

// Where pairwise gaps leave more than this share of all pairs, lower bounds follow at once. In
// noise all centroids are about as far from each other as from the rows, and no gap is wide.
constexpr double kMostLeftByGaps = 0.6;
// Else the choice is a ski rental, which costs at most twice the best: pairwise gaps are rented,
// call by call, until the rent has reached the price of lower bounds. Rent and price are in units
// of the distances of all pairs. The price is a call that writes all bounds: the scores of all
// pairs, which take a twentieth of the time of their distances.
constexpr double kPriceOfLowerBounds = 0.05;
// The share of pairs that lower bounds leave, about. The rent of a call is the share that pairwise
// gaps leave, less this one.
constexpr double kLeftByLowerBounds = 0.004;
// No rent is due while this share of labels or more changes: lower bounds would not last.
constexpr double kManyChanged = 0.05;

// Rows that tell a typical distance: the median of a thousand is off by two percentiles.
constexpr int64_t kSample = 1000;

}  // namespace

void Policy::restart() {
  kept_ = Kept::kNothing;
  screen_ = Screen::kPairwiseGaps;
  calls_without_lower_bounds_ = calls_without_gaps_ = 0;
  spent_on_gaps_ = typical_distance_ = 0;
}

Kept Policy::begin(bool follows) {
  const Kept kept = follows ? kept_ : Kept::kNothing;
  kept_ = Kept::kNothing;
  return kept;
}

bool Policy::lower_bounds_pay(bool directions, bool coordinates_kept) const {
  if (calls_without_lower_bounds_ > 0 || !(typical_distance_ > 0)) return false;
  // Along directions, coordinates that are not in memory would be measured again by each call.
  return directions ? coordinates_kept : screen_ == Screen::kLowerBounds;
}

bool Policy::gaps_pay(int64_t k, int64_t n) const {
  return calls_without_gaps_ == 0 && k <= n / kRowsOfCentroid;
}

bool Policy::pairwise_gaps_pay(int64_t k, int64_t places, bool directions, bool lower_bounds,
                               int threads) const {
  return screen_ == Screen::kPairwiseGaps && !directions && !lower_bounds &&
         k * places * int64_t(sizeof(float)) <= kBytesOfThread * threads;
}

bool Policy::rows_may_be_skipped(Kept kept, bool lower_bounds, bool gaps) const {
  if (kept == Kept::kNothing || !inertia_follows_) return false;
  // Something has to prove labels: lower bounds that are read, or gaps where none are written.
  return kept == Kept::kBothBounds || (gaps && !lower_bounds);
}

// A call is over: one call less until suspended bounds are tried again.
void Policy::count_down() {
  calls_without_lower_bounds_ = std::max(0, calls_without_lower_bounds_ - 1);
  calls_without_gaps_ = std::max(0, calls_without_gaps_ - 1);
}

// Lower bounds discarded nearly nothing: the next calls have pairwise gaps, and the rent begins
// anew.
void Policy::suspend_lower_bounds() {
  calls_without_lower_bounds_ = kCallsWithoutLowerBounds;
  screen_ = Screen::kPairwiseGaps;
  spent_on_gaps_ = 0;
}

// Pairwise gaps were used: lower bounds follow once the rent has paid for them.
void Policy::weigh_pairwise_gaps(bool few_changed) {
  const double rent = std::max(last_.share_visited - kLeftByLowerBounds, 0.0);
  spent_on_gaps_ = few_changed ? spent_on_gaps_ + rent : 0;
  const bool still_pay =
      spent_on_gaps_ < kPriceOfLowerBounds && last_.share_visited < kMostLeftByGaps;
  screen_ = still_pay ? Screen::kPairwiseGaps : Screen::kLowerBounds;
}

// Gaps proved few labels: the next calls have none.
void Policy::suspend_gaps() { calls_without_gaps_ = kCallsWithoutGaps; }

// The median reach of a sample; 0 where its square could overflow.
void Policy::take_typical_distance(const float* reach, int64_t n) {
  std::vector<double> sample;
  for (int64_t i = 0; i < n; i += n / kSample + 1) sample.push_back(double(reach[i]));
  if (sample.empty()) return;
  const auto median = sample.begin() + int64_t(sample.size() / 2);
  std::nth_element(sample.begin(), median, sample.end());
  typical_distance_ = *median * *median < kTooLarge ? *median : 0;
}

template <typename T>
void Policy::finish(const Search<T>& s, int64_t n, const Seen& seen, int64_t changed) {
  const double pairs = double(n) * double(s.places.k), rows = double(n);
  const bool screened = s.places.count && pairs > 0;
  last_.share_visited = screened ? double(seen.pairs) / pairs : 1.0;
  last_.share_compared = n ? double(seen.compared) / rows : 0;
  count_down();
  if (s.bounds.valid && last_.share_visited > kMostVisited) suspend_lower_bounds();
  if (s.gaps.pairwise) weigh_pairwise_gaps(double(changed) < kManyChanged * rows);
  // Gaps of all pairs are worth their price even where the nearest of each are not.
  const bool pairwise = s.gaps.pairwise && screen_ == Screen::kPairwiseGaps;
  if (s.gaps.nearest && !pairwise && double(seen.proven) < kFewRowsKept * rows) suspend_gaps();
  if (!s.upper.reach) return;
  kept_ =
      s.bounds.steps && calls_without_lower_bounds_ == 0 ? Kept::kBothBounds : Kept::kUpperBounds;
  // While lower bounds are kept, the length of their steps stays as it is.
  if (kept_ != Kept::kBothBounds) take_typical_distance(s.upper.reach, n);
}

void Policy::lose_lower_bounds() {
  if (kept_ == Kept::kBothBounds) kept_ = Kept::kUpperBounds;
}

template void Policy::finish(const Search<float>&, int64_t, const Seen&, int64_t);
template void Policy::finish(const Search<double>&, int64_t, const Seen&, int64_t);

}  // namespace km
