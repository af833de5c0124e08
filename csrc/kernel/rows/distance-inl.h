// The distance that decides; its order of operations is that of README.md.
#pragma once

#include "kernel/simd/vec16-inl.h"
#include "kernel/table.h"

namespace km::KM_TARGET {
namespace {

template <typename T>
inline T least_of(T a, T b) {
  return a < b ? a : b;
}

// Squared distance of two rows (stride) of more than kFewFeatures features: features 16 apart are
// added up in order, by parts of 1,024 features, then the lanes. Wherever two rows meet, the
// distance has the same bits.
constexpr int64_t kFeaturesInPart = KM_FEATURES_IN_PART;

template <typename T>
inline T squared_distance(const T* a, const T* b, int64_t stride) {
  Sixteen<T> all = filled(T(0));
  if (stride <= kFeaturesInPart) {
    for (int64_t j = 0; j < stride; j += kLanes)
      add_square_of_difference(all, load(a + j), load(b + j));
    return total(all);
  }
  for (int64_t begin = 0; begin < stride; begin += kFeaturesInPart) {
    Sixteen<T> sum = filled(T(0));
    for (int64_t j = begin; j < least_of(stride, begin + kFeaturesInPart); j += kLanes)
      add_square_of_difference(sum, load(a + j), load(b + j));
    add(all, sum);
  }
  return total(all);
}

// The same of four pairs of rows, whose sums need not wait for each other.
template <typename T>
KM_BY_ITSELF void squared_distances(const T* const (&a)[4], const T* const (&b)[4], int64_t stride,
                                    T (&distance)[4]) {
  if (stride > kFeaturesInPart) {
    for (int i = 0; i < 4; ++i) distance[i] = squared_distance(a[i], b[i], stride);
    return;
  }
  Sixteen<T> sum[4];
  for (int i = 0; i < 4; ++i) sum[i] = filled(T(0));
  for (int64_t j = 0; j < stride; j += kLanes)
    for (int i = 0; i < 4; ++i) add_square_of_difference(sum[i], load(a[i] + j), load(b[i] + j));
  for (int i = 0; i < 4; ++i) distance[i] = total(sum[i]);
}

// The same of few features (d): one after the other.
template <typename T>
inline T squared_distance_of_few(const T* a, const T* b, int64_t d) {
  T sum = 0;
  for (int64_t j = 0; j < d; ++j) {
    const T difference = a[j] - b[j];
    sum = fused(difference, difference, sum);
  }
  return sum;
}

}  // namespace
}  // namespace km::KM_TARGET
