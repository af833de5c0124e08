#include "host/fill_seeding.h"

#include "host/box_maker.h"
#include "kernel/features.h"
#include "kernel/limits.h"

namespace km {

template <typename T>
bool fill_seeding(const km_rows& rows, const Boxes<T>& tree, int threads) {
  return with_features<kSortedFeatures, kFewFeatures + 1>(
      rows.d, [&](auto d) { return sort_and_fill<T, decltype(d)::value>(rows, tree, threads); });
}

template bool fill_seeding(const km_rows&, const Boxes<float>&, int);
template bool fill_seeding(const km_rows&, const Boxes<double>&, int);

}  // namespace km
