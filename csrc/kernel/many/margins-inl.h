// What a score or a computed distance says for sure, all rounding allowed for.
//
// Each function errs to the safe side: lower bounds come out too low and upper bounds too high, by
// the margins of Coordinates, so that a centroid that is discarded could not have won. The deciding
// distance alone makes labels; the margins here only cost or save time.
#pragma once

#include "kernel/rows/load-inl.h"

namespace km::KM_TARGET {
namespace {

constexpr float kInfinity = kInfinityOf<float>;
// Distances below may be rounding alone: units are at least √kLeastNorm / kWhole, so that
// coordinates of rows shorter than √kLeastNorm = 1e-15 lose their digits.
constexpr float kTiny = 1e-14f;

// The least score with which a centroid can be as near to a row as `distance` (squared), given the
// row's ‖x‖²: ‖x - c‖² = ‖x‖² - 2 score <= distance, solved for the score. The last term allows
// kTiny for the lengths of the row, the centroid and their difference.
inline float least_winning_score(const Coordinates& c, float norm, float distance) {
  return 0.5f * (norm * (1 - c.margin) - distance * c.slack) - 1.5f * kTiny * kTiny;
}

// ‖x‖² rounded down: the squared distance is at least norm_below - 2 score. (The margin of ‖c‖² is
// in Coordinates.offsets, which raise the score.)
inline float norm_below(const Coordinates& c, float norm) {
  return norm * (1 - c.margin) - kTiny * kTiny;
}

// A lower bound on the distance (not squared) of a centroid that has this score. 2e-6 is 30 times
// the rounding of a square root, 2^-24.
inline float distance_below(const Coordinates& c, float norm, float score) {
  const float square = norm_below(c, norm) - 2 * score;
  return square_root(square > 0 ? square : 0) * (1 - 2e-6f);
}

// Bounds on a distance (not squared), from the computed Σ(x - c)²: 2 - slack is at most 1 / slack.
template <typename T>
inline float root_below(const Coordinates& c, T distance) {
  const float root = square_root(static_cast<float>(distance)) * (2 - c.slack) - kTiny;
  return root > 0 ? root : 0;
}
template <typename T>
inline float root_above(const Coordinates& c, T distance) {
  return square_root(static_cast<float>(distance)) * c.slack + kTiny;
}

}  // namespace
}  // namespace km::KM_TARGET
