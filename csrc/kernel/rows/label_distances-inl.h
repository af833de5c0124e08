// The deciding distance of each row to the centroid of its label: n distances, for a caller that
// has the labels of an E-step and not its distances.
#pragma once

#include "kernel/rows/load-inl.h"

namespace km::KM_TARGET {
namespace {

// See Kernel::label_distances for the arguments. Under cosine rows have unit length, a distance is
// ½‖x - c‖² = 1 - cos, and a zero row, which has no direction, is at distance 1 of everything.
//
// An E-step measures few features in blocks of rows, and many features four pairs at a time; both
// keep the order of operations of a single pair, so that the bits are the same (csrc/README.md).
template <typename T>
void label_distances(const T* rows, int64_t count, int64_t d, int64_t stride, bool cosine,
                     const T* centroids, const int64_t* labels, T* distances) {
  for (int64_t i = 0; i < count; ++i) {
    const T* const row = rows + i * stride;
    const T* const centroid = centroids + labels[i] * stride;
    T distance = d > kFewFeatures ? squared_distance(row, centroid, stride)
                                  : squared_distance_of_few(row, centroid, d);
    if (cosine) distance = is_zero(row, d) ? T(1) : distance / 2;
    distances[i] = distance;
  }
}

}  // namespace
}  // namespace km::KM_TARGET
