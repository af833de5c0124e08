// Squared distances of sparse rows to a few points, from products in double: k-means++ and
// distances that are reported. See km_sparse_lower, km_sparse_potentials and km_sparse_distances.
#pragma once

#include "abi/native.h"

namespace km {

// Lowers nearest (n), squared distances to the nearest center so far, by the distances to another
// center (d).
template <typename T>
void sparse_lower(const km_sparse& rows, T* nearest, const T* center, int threads);

// Writes potentials (m), Σ weight · min(nearest, ‖x - candidate‖²), of candidates (m, d).
template <typename T>
void sparse_potentials(const km_sparse& rows, const T* nearest, const T* candidates, int64_t m,
                       double* potentials, int threads);

// Writes squared distances (n, k) to centroids (k, d); for cosine half of them, and 1 for a row of
// zeros.
template <typename T>
void sparse_distances(const km_sparse& rows, const T* centroids, int64_t k, T* distances,
                      int threads);

}  // namespace km
