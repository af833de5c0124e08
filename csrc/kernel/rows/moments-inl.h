// The range of each column of a table and the first two moments: Σ x, or Σ (x - center)². One pass
// over the rows asks for sums, from which the mean follows, and a second one for squares about it:
// Σ x² - (Σ x)² / n would cancel where the mean is far from 0.
#pragma once

#include "kernel/simd/standard.h"

namespace km::KM_TARGET {
namespace {

// See Kernel::moments. x (count, size) is a table without gaps: size columns, which may be several
// rows side by side so that a loop over few features fills vectors.
//   center (size), or null: without it, low and high (size) are lowered and raised to the range of
//     each column, and sums (size) grow by Σ x; with it, by Σ (x - center)², and the range is left.
// NaN never lowers or raises a range, since comparisons with it are false; it shows in the sums.
template <typename T>
inline void moments(const T* __restrict x, int64_t count, int64_t size,
                    const double* __restrict center, T* __restrict low, T* __restrict high,
                    double* __restrict sums) {
  for (; count > 0; --count, x += size) {
    if (center) {
      for (int64_t j = 0; j < size; ++j) {
        const double difference = double(x[j]) - center[j];
        sums[j] += difference * difference;
      }
    } else {
      for (int64_t j = 0; j < size; ++j) {
        low[j] = x[j] < low[j] ? x[j] : low[j];
        high[j] = x[j] > high[j] ? x[j] : high[j];
        sums[j] += double(x[j]);
      }
    }
  }
}

}  // namespace
}  // namespace km::KM_TARGET
