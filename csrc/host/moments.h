// How far the features of all rows reach, and what they add up to; see km_spread.
#pragma once

#include "abi/native.h"

namespace km {

template <typename T>
void moments(const km_rows& rows, const double* center, double* low, double* high, double* sums,
             int threads);

}  // namespace km
