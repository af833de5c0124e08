// How far the numbers of a table reach, column by column, and what they add up to.
//
#pragma once

#include "kernel/simd/standard.h"

namespace km::KM_TARGET {
namespace {

// Of x (count, size): lowers low and raises high (size), adds to sums (size) the numbers or, about
// a center (size), the squares of their differences alone. NaN shows in the sums.
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
