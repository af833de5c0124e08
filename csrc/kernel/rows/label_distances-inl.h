// The deciding distance of each row to the centroid of its label.
#pragma once

#include "kernel/rows/load-inl.h"

namespace km::KM_TARGET {
namespace {

// See Kernel::label_distances. Blocks of few features have the same order of operations, row by
// row, and so do four pairs at once: the bits are those of every E-step (csrc/README.md).
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
