// Rows as distances take them: converted, and at unit length for cosine.
#pragma once

#include "abi/native.h"

namespace km {

// Copies rows to (n, d), contiguous; see km_load.
template <typename T>
void load(const km_rows& rows, T* to, int threads);

}  // namespace km
