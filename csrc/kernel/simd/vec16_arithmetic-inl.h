// Arithmetic of sixteen numbers, lane by lane. Operations with `square` in their name are part of
// the deciding distance or of the normalization, and are fused. Other sums of products only discard
// centroids, with a margin for either rounding: the compiler may fuse them or not.
#pragma once

#include "kernel/simd/vec16_type-inl.h"

namespace km::KM_TARGET {
namespace {

// sum += value.
template <typename T>
inline void add(Sixteen<T>& sum, const Sixteen<T>& value) {
  for (int v = 0; v < Sixteen<T>::kParts; ++v) sum.part[v] += value.part[v];
}

// sum += a · factor, rounded once or twice.
template <typename T>
inline void add_product(Sixteen<T>& sum, const Sixteen<T>& a, T factor) {
  for (int v = 0; v < Sixteen<T>::kParts; ++v) sum.part[v] += a.part[v] * factor;
}

// sum += a · b, rounded once or twice.
inline void add_products(Sixteen<float>& sum, const Sixteen<float>& a, const Sixteen<float>& b) {
  for (int v = 0; v < Sixteen<float>::kParts; ++v) sum.part[v] += a.part[v] * b.part[v];
}

// sum += (a - b)²: the difference is rounded, then the square is added with one rounding. This is
// the step of the deciding distance.
template <typename T>
inline void add_square_of_difference(Sixteen<T>& sum, const Sixteen<T>& a, const Sixteen<T>& b) {
  for (int v = 0; v < Sixteen<T>::kParts; ++v) {
    const auto difference = a.part[v] - b.part[v];
    sum.part[v] = fused(difference, difference, sum.part[v]);
  }
}

// sum += value², rounded once: the step of a row's norm.
template <typename T>
inline void add_square(Sixteen<T>& sum, const Sixteen<T>& value) {
  for (int v = 0; v < Sixteen<T>::kParts; ++v)
    sum.part[v] = fused(value.part[v], value.part[v], sum.part[v]);
}

// a - b.
inline Sixteen<float> minus(Sixteen<float> a, const Sixteen<float>& b) {
  for (int v = 0; v < Sixteen<float>::kParts; ++v) a.part[v] -= b.part[v];
  return a;
}

// a - b of rows in double, whose coordinates are floats: subtracted in double, then rounded.
inline Sixteen<float> minus(const Sixteen<double>& a, const Sixteen<float>& b) {
  double from[kLanes];
  float lanes[kLanes];
  store(from, a);
  store(lanes, b);
  for (int i = 0; i < kLanes; ++i) lanes[i] = static_cast<float>(from[i] - lanes[i]);
  return load(lanes);
}

// a · b.
inline Sixteen<float> times(Sixteen<float> a, const Sixteen<float>& b) {
  for (int v = 0; v < Sixteen<float>::kParts; ++v) a.part[v] *= b.part[v];
  return a;
}

// a · factor.
template <typename T>
inline Sixteen<T> times(Sixteen<T> a, T factor) {
  for (int v = 0; v < Sixteen<T>::kParts; ++v) a.part[v] *= factor;
  return a;
}

// a · factor + b, rounded once or twice.
inline Sixteen<float> times_plus(const Sixteen<float>& a, float factor, Sixteen<float> b) {
  add_product(b, a, factor);
  return b;
}

// a / divisor.
template <typename T>
inline Sixteen<T> divided(Sixteen<T> a, T divisor) {
  for (int v = 0; v < Sixteen<T>::kParts; ++v) a.part[v] /= divisor;
  return a;
}

// 1 / value, as a division rounds it.
inline Sixteen<float> reciprocal(Sixteen<float> value) {
  for (int v = 0; v < Sixteen<float>::kParts; ++v) value.part[v] = 1 / value.part[v];
  return value;
}

// √value, rounded once.
inline Sixteen<float> square_root(Sixteen<float> value) {
  for (int v = 0; v < Sixteen<float>::kParts; ++v) value.part[v] = square_root(value.part[v]);
  return value;
}

// max(value, floor), and floor where value is NaN.
inline Sixteen<float> raised_to(Sixteen<float> value, float floor) {
  for (int v = 0; v < Sixteen<float>::kParts; ++v) {
    const auto least = Sixteen<float>::Vector{} + floor;
    value.part[v] = value.part[v] > least ? value.part[v] : least;
  }
  return value;
}

// most = max(most, |value|); lanes of value that are NaN are passed over.
template <typename T>
inline void raise_to_magnitude(Sixteen<T>& most, const Sixteen<T>& value) {
  for (int v = 0; v < Sixteen<T>::kParts; ++v)
    most.part[v] = larger_of(most.part[v], magnitude(value.part[v]));
}

}  // namespace
}  // namespace km::KM_TARGET
