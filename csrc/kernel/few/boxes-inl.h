// What discards points by boxes of rows has to allow for.
#pragma once

#include "kernel/few/block-inl.h"

namespace km::KM_TARGET {
namespace {

// Rounding of a distance and of a bound, relative to ‖a‖² + ‖b‖² + ‖h‖²; what is smaller than the
// numbers that have all their digits does not count either.
template <typename T>
constexpr T kMarginOfBox = 32 * kEpsilonOf<T>;
template <typename T>
constexpr T kLeastGap = 64 * kLeastNormalOf<T>;

}  // namespace
}  // namespace km::KM_TARGET
