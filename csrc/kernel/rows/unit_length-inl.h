// Rows at unit length; the order of operations is that of README.md.
#pragma once

#include "kernel/rows/distance-inl.h"

namespace km::KM_TARGET {
namespace {

// Scales a row of more than kFewFeatures features, filled up by zeros to stride, to unit length; a
// row of zeros stays.
template <typename T>
KM_NOINLINE void to_unit_length(T* row, int64_t stride) {
  Sixteen<T> sizes = broadcast(T(0));
  for (int64_t j = 0; j < stride; j += kLanes) raise_to_magnitude(sizes, load(row + j));
  const T most = largest_lane(sizes);
  if (!(most > 0)) return;
  const T scale = scale_of<T, IntOf<T>>(most);
  Sixteen<T> all = broadcast(T(0));
  for (int64_t begin = 0; begin < stride; begin += kFeaturesInPart) {
    Sixteen<T> sum = broadcast(T(0));
    for (int64_t j = begin; j < least_of(stride, begin + kFeaturesInPart); j += kLanes) {
      const Sixteen<T> scaled = times(load(row + j), scale);
      store(row + j, scaled);
      add_square(sum, scaled);
    }
    add(all, sum);
  }
  const T norm = square_root(sum_of_lanes(all));
  for (int64_t j = 0; j < stride; j += kLanes) store(row + j, divided(load(row + j), norm));
}

// The same of few features (d).
template <typename T>
void to_unit_length_of_few(T* row, int64_t d) {
  T most = 0, squares = 0;
  for (int64_t j = 0; j < d; ++j) most = larger_of(most, magnitude(row[j]));
  if (!(most > 0)) return;
  const T scale = scale_of<T, IntOf<T>>(most);
  for (int64_t j = 0; j < d; ++j) {
    row[j] *= scale;
    squares = fused(row[j], row[j], squares);
  }
  const T norm = square_root(squares);
  for (int64_t j = 0; j < d; ++j) row[j] /= norm;
}

}  // namespace
}  // namespace km::KM_TARGET
