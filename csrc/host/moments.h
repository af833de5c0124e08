// Range and moments of each feature of all rows; see km_spread.
#pragma once

#include "abi/native.h"

namespace km {

// Writes the smallest and the largest value of each feature to low and high (d), and to sums (d)
// Σ x or, with a center (d), Σ (x - center)²; rows of weight 0 count in the range alone. T is the
// type that rows are read as; cosine makes no difference. NaN shows in sums.
template <typename T>
void moments(const km_rows& rows, const double* center, double* low, double* high, double* sums,
             int threads);

}  // namespace km
