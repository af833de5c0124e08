// E-steps of more than kFewFeatures features.
#pragma once

#include "abi/native.h"
#include "host/workspace.h"
#include "kernel/result.h"

namespace km {

// Discards centroids row by row, by bounds of this call and of those before (Elkan, Hamerly,
// Yinyang). Keeps: other calls will follow with this workspace.
template <typename T>
void e_step_by_bounds(const km_rows& rows, const T* centroids, int64_t k, const Result<T>& result,
                      Workspace<T>& workspace, bool keeps, int threads);

}  // namespace km
