// Trees of more than kFewFeatures features, up to kSortedFeatures, which serve seeding alone: rows
// and sides. Apart from fill_few, since CMakeLists.txt has it compiled by -O2: eight more
// unrollings of the sort take half of the compiler's time, and win from nothing (12, 16 features)
// to a sixth (9) of a sort that is done once.
#pragma once

#include "abi/native.h"
#include "kernel/few/boxes.h"

namespace km {

// See sort_and_fill in host/box_maker.h.
template <typename T>
bool fill_seeding(const km_rows& rows, const Boxes<T>& tree, int threads);

}  // namespace km
