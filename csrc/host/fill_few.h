// Trees of up to kFewFeatures features, which serve E-steps and seeding: rows, sides and moments.
#pragma once

#include "abi/native.h"
#include "kernel/few/boxes.h"

namespace km {

// See sort_and_fill in host/box_maker.h.
template <typename T>
bool fill_few(const km_rows& rows, const Boxes<T>& tree, int threads);

}  // namespace km
