// The normalization for cosine, x / ‖x‖: normalized(x, d) of csrc/README.md, for rows one by one,
// in place. few/block-inl.h has it for rows in the lanes of vectors, sparse/ for rows without their
// zeros. m, p, y and norm have the names of the pseudo-code.
//
// Scaling by p, a power of two, before squares are summed loses nothing: m·p is in [1, 2), so that
// no square overflows, and a square that underflows is too small to count beside 1.
#pragma once

#include "kernel/rows/distance-inl.h"

namespace km::KM_TARGET {
namespace {

// A row of more than kFewFeatures features, filled up by zeros to stride, a multiple of 16. A row
// of zeros, whose m is 0, stays as it is.
template <typename T>
KM_NOINLINE void normalize(T* x, int64_t stride) {
  Sixteen<T> sizes = broadcast(T(0));
  for (int64_t j = 0; j < stride; j += kLanes) raise_to_magnitude(sizes, load(x + j));
  const T m = largest_lane(sizes);
  if (!(m > 0)) return;
  const T p = scale_of<T, IntOf<T>>(m);
  const T squares = sum_of_squares<T>(stride, [x, p](Sixteen<T>& lane, int64_t j) {
    const Sixteen<T> y = times(load(x + j), p);
    store(x + j, y);
    add_square(lane, y);
  });
  const T norm = square_root(squares);
  for (int64_t j = 0; j < stride; j += kLanes) store(x + j, divided(load(x + j), norm));
}

// A row of d <= kFewFeatures features.
template <typename T>
void normalize_few(T* x, int64_t d) {
  T m = 0, squares = 0;
  for (int64_t j = 0; j < d; ++j) m = larger_of(m, magnitude(x[j]));
  if (!(m > 0)) return;
  const T p = scale_of<T, IntOf<T>>(m);
  for (int64_t j = 0; j < d; ++j) {
    x[j] *= p;  // y[j]
    squares = fused(x[j], x[j], squares);
  }
  const T norm = square_root(squares);
  for (int64_t j = 0; j < d; ++j) x[j] /= norm;
}

}  // namespace
}  // namespace km::KM_TARGET
