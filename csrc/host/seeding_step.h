// The two steps of seeding, by boxes of rows or by Seeding<T>.
#pragma once

#include "host/workspace.h"

namespace km {

// See km_potentials.
template <typename T>
void potentials(const km_rows& rows, const T* nearest, const T* candidates, int64_t m,
                bool unchanged, double* potentials, Workspace<T>& workspace, int threads);

// See km_lower.
template <typename T>
void lower(const km_rows& rows, T* nearest, const T* center, bool unchanged,
           Workspace<T>& workspace, int threads);

}  // namespace km
