// E-steps and seeding of rows of which only the numbers that are not 0 are given; see
// km_sparse_e_step and the functions beside it in native.h.
#pragma once

#include "abi/native.h"
#include "kernel/result.h"

namespace km {

template <typename T>
void sparse_e_step(const km_sparse& rows, const T* centroids, int64_t k, const Result<T>& result,
                   int threads);
template <typename T>
void sparse_lower(const km_sparse& rows, T* nearest, const T* center, int threads);
template <typename T>
void sparse_potentials(const km_sparse& rows, const T* nearest, const T* candidates, int64_t m,
                       double* potentials, int threads);
template <typename T>
void sparse_distances(const km_sparse& rows, const T* centroids, int64_t k, T* distances,
                      int threads);
template <typename T>
void sparse_unit(const km_sparse& rows, T* values, int threads);

}  // namespace km
