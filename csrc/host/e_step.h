// The E-step: the nearest centroid of each row, and what the clusters add up to.
#pragma once

#include "abi/native.h"
#include "host/workspace.h"
#include "kernel/result.h"

namespace km {

// See km_e_step; workspace may be null.
template <typename T>
void e_step(const km_rows& rows, const T* centroids, int64_t k, const Result<T>& result,
            km_workspace* workspace, int threads);

}  // namespace km
