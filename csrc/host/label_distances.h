// Distances of rows to the centroids of given labels, in O(n d). An E-step that keeps bounds spares
// most distances; a caller that learns from its counts that a cluster is empty needs them after
// all, for the rows that are farthest from their centroids, and need not search again.
#pragma once

#include <cstdint>

#include "abi/native.h"

namespace km {

// See km_label_distances (abi/native.h). Throws std::bad_alloc, as the function below does.
template <typename T>
void label_distances(const km_rows& rows, const T* centroids, int64_t k, const int64_t* labels,
                     T* distances, int threads);

// See km_sparse_label_distances.
template <typename T>
void sparse_label_distances(const km_sparse& rows, const T* centroids, int64_t k,
                            const int64_t* labels, T* distances, int threads);

}  // namespace km
