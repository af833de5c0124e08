// Code for each number of features: with few of them, a loop whose length is known when it is
// compiled becomes straight code that keeps a centroid in registers.
#pragma once

#include <cstdint>

namespace km {

// A number as a type, so that a template can be compiled for it.
template <int N>
struct Constant {
  static constexpr int value = N;
};

// Calls call(Constant<d>{}), and returns what it returns; d: kLeast to kMost. (static: the linker
// would keep one copy of an inline function for all instruction sets; see table.h.)
template <int kMost, int kLeast = 1, typename Call>
static inline auto with_features(int64_t d, const Call& call) {
  if constexpr (kMost > kLeast) {
    if (d < kMost) return with_features<kMost - 1, kLeast>(d, call);
  }
  return call(Constant<kMost>{});
}

}  // namespace km
