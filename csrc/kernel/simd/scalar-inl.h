// Numbers one at a time: what the loops would otherwise take from <limits>, <cmath> and
// <algorithm>.
//
// An inline function of the standard library has one name in every source file, and the linker
// keeps one copy for all of them: if it were the copy that was compiled with AVX-512, code for
// older processors would call it and die. Functions here are in a namespace of each instruction
// set, so loops (-inl.h) use these, and of the standard library types and memcpy alone.
#pragma once

#include "kernel/simd/standard.h"

namespace km::KM_TARGET {
namespace {

// Of T, float or double: +infinity.
template <typename T>
constexpr T kInfinityOf = std::numeric_limits<T>::infinity();
// NaN, which no comparison holds for.
template <typename T>
constexpr T kNanOf = std::numeric_limits<T>::quiet_NaN();
// The step from 1 to the next number: 2^-23 or 2^-52. An operation is wrong by half of it at most,
// relatively.
template <typename T>
constexpr T kEpsilonOf = std::numeric_limits<T>::epsilon();
// The least number with all its digits, 2^-126 or 2^-1022; those below are subnormal.
template <typename T>
constexpr T kLeastNormalOf = std::numeric_limits<T>::min();

// The bits below the exponent of a stored number: 23 or 52.
template <typename T>
constexpr int kDigitsOf = std::numeric_limits<T>::digits - 1;
// What a stored exponent is larger than the exponent that it means: 127 or 1023.
template <typename T>
constexpr int kBiasOf = std::numeric_limits<T>::max_exponent - 1;

// An integer with the bits of a T: scales and signs are computed on it.
template <typename T>
using IntOf = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

// The lesser of two numbers; b where they are equal, or one is NaN.
template <typename T>
inline T least_of(T a, T b) {
  return a < b ? a : b;
}

// The larger of two numbers, or of two vectors lane by lane; a where they are equal, or one is NaN,
// so that NaN in b is passed over.
template <typename V>
inline V larger_of(const V& a, const V& b) {
  return b > a ? b : a;
}

// |value| of a number.
inline float magnitude(float value) { return __builtin_fabsf(value); }
inline double magnitude(double value) { return __builtin_fabs(value); }

// |value| of a vector, lane by lane; a zero may have either sign.
template <typename V>
inline V magnitude(const V& value) {
  return value > -value ? value : -value;
}

// √value, rounded once as IEEE 754 asks; NaN below 0. (A builtin: one instruction, where
// -fno-math-errno says that nobody reads errno.)
inline float square_root(float value) { return __builtin_sqrtf(value); }
inline double square_root(double value) { return __builtin_sqrt(value); }

}  // namespace
}  // namespace km::KM_TARGET
