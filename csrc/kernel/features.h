// Code for each number of features.
#pragma once

#include <cstdint>

namespace km {

template <int N>
struct Constant {
  static constexpr int value = N;
};

// Calls call(Constant<d>{}), d from 1 to kMost. (static: see table.h)
template <int kMost, typename Call>
static inline auto with_features(int64_t d, const Call& call) {
  if constexpr (kMost > 1) {
    if (d < kMost) return with_features<kMost - 1>(d, call);
  }
  return call(Constant<kMost>{});
}

}  // namespace km
