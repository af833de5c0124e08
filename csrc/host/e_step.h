// Splits the rows over threads, and merges what they find in a fixed order.
#pragma once

#include "host/workspace.h"

namespace km {

// See km_e_step.
template <typename T>
void e_step(const km_rows& rows, const T* centroids, int64_t k, const Result<T>& result,
            km_workspace* workspace, int threads);

// See km_potentials.
template <typename T>
void potentials(const km_rows& rows, const T* nearest, const T* candidates, int64_t m,
                bool unchanged, double* potentials, Workspace<T>& workspace, int threads);

// See km_lower.
template <typename T>
void lower(const km_rows& rows, T* nearest, const T* center, bool unchanged,
           Workspace<T>& workspace, int threads);

// See km_load.
template <typename T>
void load(const km_rows& rows, T* to, int threads);

}  // namespace km
