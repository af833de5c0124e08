#include "host/lower_bounds.h"

#include <algorithm>
#include <cmath>

#include "host/policy.h"

namespace km {

namespace {

// Steps to the distance of a typical row: 256 where centroids move little, so that the rounding of
// a bound, up to a step, costs little. 64, whose 255 steps still reach to four times that
// distance, where they move far, so that the drift of many calls is below kMostSteps.
constexpr double kFewSteps = 64, kManySteps = 256;
// Between the two, the centroid that moves farthest moves so many steps in a call: bounds last for
// about kMostSteps / 16 = 8 calls before they are rebased.
constexpr double kStepsOfDrift = 16;
// Beside half the size of its features a row may take 64 bytes, less what other arrays take of it:
// the label twice (64 and 32 bits), the distance (of the type computed in), the upper bound.
constexpr int64_t kBytesOfRow = 64;
constexpr int64_t kBytesOfLabels = sizeof(int64_t) + sizeof(int32_t);

}  // namespace

int64_t bytes_for_bounds(const km_rows& rows, int64_t pitch, bool directions, int threads) {
  // All that is kept takes half as much memory as the rows, and kBytesOfRow for each of these, and
  // kBytesOfThread for each thread: few rows may have a bound for each centroid.
  const int64_t element = rows.is_double ? sizeof(double) : sizeof(float);
  int64_t bytes = rows.d * element / 2 + kBytesOfRow + kBytesOfThread * threads / rows.n -
                  (kBytesOfLabels + element + int64_t(sizeof(float)));
  // Coordinates, and the squared norm.
  if (pitch) bytes -= pitch * int64_t(sizeof(int32_t)) + int64_t(sizeof(float));
  // Without directions features are few, and a distance is soon computed: more bounds than twice
  // the features would take longer to read than the distances that they spare.
  if (!directions) bytes = std::min(bytes, 2 * rows.d);
  return bytes;
}

// Groups are as small as the bytes allow, and all but the last one equally large.
bool KeptLowerBounds::choose_groups(int64_t n, int64_t k, int64_t bytes) {
  const int64_t together = (k + bytes - 1) / bytes, groups = (k + together - 1) / together;
  if (steps_ && groups == groups_ && together == together_) return true;
  const int64_t rows = (n + kBlock - 1) / kBlock * kBlock;
  groups_ = groups;
  together_ = together;
  steps_ = aligned<uint8_t>(size_t(rows * groups));
  base_ = aligned<float>(size_t(rows));
  return false;
}

// Adds up how far each group has moved: as far as the farthest of its centroids.
void KeptLowerBounds::add_drift(const int32_t* position, const std::vector<double>& drift) {
  std::vector<double> farthest(size_t(groups_), 0.0);
  for (size_t c = 0; c < drift.size(); ++c) {
    double& of_group = farthest[size_t(group_of_[size_t(position[c])])];
    of_group = std::max(of_group, drift[c]);
  }
  for (size_t g = 0; g < drift_.size(); ++g) drift_[g] += farthest[g] / step_;
}

// Has the kernel take the drift off all bounds first, where a group has moved too far for a byte:
// rounded up, and at most 255, which leaves a bound of 0 that discards nothing.
void KeptLowerBounds::rebase() {
  rebase_.clear();
  if (*std::max_element(drift_.begin(), drift_.end()) <= kMostSteps) return;
  for (double& steps : drift_) {
    rebase_.push_back(static_cast<uint8_t>(std::min(255.0, std::ceil(steps))));
    steps = 0;
  }
}

// What a screen of single pairs reads of a centroid, side by side.
void KeptLowerBounds::pack_terms(const Coordinates& coordinates, int64_t k, int64_t places) {
  terms_.resize(size_t(places));
  for (int64_t place = 0; place < k; ++place)
    terms_[size_t(place)] = {coordinates.units[place], coordinates.offsets[place],
                             drift_below_[size_t(group_of_[size_t(place)])], 0};
}

// The length of a step is chosen when bounds are first written, and stays while they are kept. A
// bound that is read loses drift_above, one that is written gets drift_below in advance: the drift
// since then is the difference of the two, rounded up.
LowerBounds KeptLowerBounds::make(const int32_t* position, const Coordinates& coordinates,
                                  int64_t places, const std::vector<double>& drift,
                                  double typical_distance, bool kept) {
  group_of_.resize(size_t(places));
  for (int64_t place = 0; place < places; ++place)
    group_of_[size_t(place)] = static_cast<int32_t>(place / together_);
  if (kept) {
    add_drift(position, drift);
  } else {
    drift_.assign(size_t(groups_), 0.0);
    const double farthest = *std::max_element(drift.begin(), drift.end());
    step_ = std::clamp(farthest / kStepsOfDrift, typical_distance / kManySteps,
                       typical_distance / kFewSteps);
  }
  rebase();
  drift_above_.resize(drift_.size());
  drift_below_.resize(drift_.size());
  for (size_t g = 0; g < drift_.size(); ++g) {
    drift_above_[g] = static_cast<uint8_t>(std::ceil(drift_[g]));
    drift_below_[g] = static_cast<float>(std::floor(drift_[g]));
  }
  pack_terms(coordinates, int64_t(drift.size()), places);
  LowerBounds bounds = {};
  bounds.steps = steps_.get();
  bounds.base = base_.get();
  bounds.groups = groups_;
  bounds.together = together_;
  bounds.group_of = group_of_.data();
  bounds.per_step = static_cast<float>(1 / step_);
  bounds.drift_above = drift_above_.data();
  bounds.drift_below = drift_below_.data();
  bounds.terms = reinterpret_cast<const float (*)[4]>(terms_.data());
  bounds.rebase = rebase_.empty() ? nullptr : rebase_.data();
  bounds.valid = kept;
  return bounds;
}

void KeptLowerBounds::release() {
  steps_.reset();
  base_.reset();
}

}  // namespace km
