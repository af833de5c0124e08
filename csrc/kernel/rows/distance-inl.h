// The deciding distance, Σ (x - c)²: distance(x, c, d) and sum_of_squares(v, d) of csrc/README.md,
// for rows one by one. few/block-inl.h has the same sum for rows in the lanes of vectors, and
// sparse/ for rows without their zeros. Wherever a row and a centroid meet, the bits are the same.
#pragma once

#include "kernel/simd/vec16-inl.h"
#include "kernel/table.h"

namespace km::KM_TARGET {
namespace {

// Features of a part, after which lanes start again from 0: a sum of d squares has an error of
// about 64 + d / 1024 roundings instead of d / 16.
constexpr int64_t kFeaturesInPart = KM_FEATURES_IN_PART;

// lane[0 .. 15] of the part of features begin to end: for each j that is a multiple of 16,
// add_squares(lane, j) does lane[i] = fused(v[j + i], v[j + i], lane[i]) for i = 0 .. 15.
template <typename T, typename AddSquares>
inline Sixteen<T> lanes_of_part(int64_t begin, int64_t end, const AddSquares& add_squares) {
  Sixteen<T> lane = broadcast(T(0));
  for (int64_t j = begin; j < end; j += kLanes) add_squares(lane, j);
  return lane;
}

// sum_of_squares(v, d) for more than kFewFeatures features; v is filled up by zeros from d to
// stride, a multiple of 16, which changes no bit.
template <typename T, typename AddSquares>
inline T sum_of_squares(int64_t stride, const AddSquares& add_squares) {
  if (stride <= kFeaturesInPart) return sum_of_lanes(lanes_of_part<T>(0, stride, add_squares));
  Sixteen<T> totals = broadcast(T(0));  // total[0 .. 15] of the pseudo-code
  for (int64_t begin = 0; begin < stride; begin += kFeaturesInPart)
    add(totals, lanes_of_part<T>(begin, least_of(stride, begin + kFeaturesInPart), add_squares));
  return sum_of_lanes(totals);  // by halves: lanes 8 apart, then 4, 2, 1
}

// distance(x, c, d) for more than kFewFeatures features, of x and c (stride). The sign of x - c
// does not matter.
template <typename T>
inline T squared_distance(const T* x, const T* c, int64_t stride) {
  return sum_of_squares<T>(stride, [x, c](Sixteen<T>& lane, int64_t j) {
    add_square_of_difference(lane, load(x + j), load(c + j));
  });
}

// Pairs of a row and a centroid that squared_distances measures together.
constexpr int kPairsTogether = 4;

// distance(x, c, d) of four pairs x[i], c[i] (stride). A sum waits for each of its additions (4
// cycles on most processors); four sums side by side keep the processor busy meanwhile.
template <typename T>
KM_NOINLINE void squared_distances(const T* const (&x)[kPairsTogether],
                                   const T* const (&c)[kPairsTogether], int64_t stride,
                                   T (&distance)[kPairsTogether]) {
  if (stride > kFeaturesInPart) {  // long sums: pairs one by one
    for (int i = 0; i < kPairsTogether; ++i) distance[i] = squared_distance(x[i], c[i], stride);
    return;
  }
  Sixteen<T> lane[kPairsTogether];
  for (int i = 0; i < kPairsTogether; ++i) lane[i] = broadcast(T(0));
  for (int64_t j = 0; j < stride; j += kLanes)
    for (int i = 0; i < kPairsTogether; ++i)
      add_square_of_difference(lane[i], load(x[i] + j), load(c[i] + j));
  for (int i = 0; i < kPairsTogether; ++i) distance[i] = sum_of_lanes(lane[i]);
}

// distance(x, c, d) for d <= kFewFeatures, of x and c (d): one feature after the other.
template <typename T>
inline T squared_distance_of_few(const T* x, const T* c, int64_t d) {
  T s = 0;
  for (int64_t j = 0; j < d; ++j) {
    const T v = x[j] - c[j];
    s = fused(v, v, s);
  }
  return s;
}

}  // namespace
}  // namespace km::KM_TARGET
