// How much rounding a test by boxes has to allow for, in the E-step (box_descent-inl.h) and in
// seeding (seeding/box_reach-inl.h).
#pragma once

#include "kernel/few/block-inl.h"

namespace km::KM_TARGET {
namespace {

// Rounding errors of a distance ‖a - b‖² and of a bound on it by a box of half sides h, relative to
// ‖a‖² + ‖b‖² + ‖h‖² (about the middle of the box). Each is a sum of at most kSortedFeatures terms,
// in which each term is rounded at most about d + 3 times, so 32 ε is more than both together.
template <typename T>
constexpr T kMarginOfBox = 32 * kEpsilonOf<T>;
// Subnormal numbers have fewer digits, or are flushed to zero: a product that underflows is wrong
// by up to the least normal number. Sums of such products are wrong by less than this.
template <typename T>
constexpr T kLeastGap = 64 * kLeastNormalOf<T>;

}  // namespace
}  // namespace km::KM_TARGET
