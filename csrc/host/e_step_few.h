// E-steps of up to kFewFeatures features.
#pragma once

#include "abi/native.h"
#include "host/box_tree.h"
#include "kernel/result.h"

namespace km {

// Measures each row against all centroids (k, d).
template <typename T>
void e_step_by_brute_force(const km_rows& rows, const T* centroids, int64_t k,
                           const Result<T>& result, int threads);

// Discards centroids for whole boxes of the tree's rows (Kanungo's filtering algorithm), and
// assigns a box as a whole where one centroid is left. Returns the share of all pairs of a row and
// a centroid that were measured.
template <typename T>
double e_step_by_boxes(BoxTree<T>& tree, const km_rows& rows, const T* centroids, int64_t k,
                       const Result<T>& result, int threads);

}  // namespace km
