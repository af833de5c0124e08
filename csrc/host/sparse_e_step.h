// E-steps of sparse rows; see km_sparse_e_step.
#pragma once

#include "abi/native.h"
#include "kernel/result.h"

namespace km {

// Searches centroids (k, d), contiguous. Labels and distances have the bits of an E-step of the
// same rows with their zeros; sums are plain ones in double, each cluster's in the order of its
// rows.
template <typename T>
void sparse_e_step(const km_sparse& rows, const T* centroids, int64_t k, const Result<T>& result,
                   int threads);

}  // namespace km
