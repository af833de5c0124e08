// Distances of rows to the centroids of given labels: what a caller of the E-step needs who learns
// only from the counts that a cluster is empty, and so asks for the farthest rows.
#pragma once

#include <cstdint>

#include "abi/native.h"

namespace km {

// See km_label_distances.
template <typename T>
void label_distances(const km_rows& rows, const T* centroids, int64_t k, const int64_t* labels,
                     T* distances, int threads);

// See km_sparse_label_distances.
template <typename T>
void sparse_label_distances(const km_sparse& rows, const T* centroids, int64_t k,
                            const int64_t* labels, T* distances, int threads);

}  // namespace km
