// Numbers to compute with, and comparisons of what comes out.
#pragma once

#include "kernel/simd/bytes64-inl.h"
#include "kernel/simd/lanes-inl.h"
#include "simd_test.h"

namespace km::KM_TARGET {
namespace {

constexpr int kRounds = 300;  // of sixteen numbers each

// A linear congruence (Knuth), the upper 32 bits of each state.
struct Random {
  uint64_t state = 1;
  uint32_t bits() {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return uint32_t(state >> 32);
  }
  uint64_t long_bits() { return uint64_t{bits()} << 32 | bits(); }
  double uniform() { return bits() / 4294967296.0; }  // in [0, 1)
  double between(double low, double high) { return low + (high - low) * uniform(); }
};

template <typename T>
T of_bits(IntOf<T> bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
template <typename T>
IntOf<T> bits_in(T value) {
  IntOf<T> bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

template <typename T>
bool is_nan(T value) {
  return value != value;
}
// The same bits; NaN is NaN, whatever its bits.
template <typename T>
bool same(T a, T b) {
  return bits_in(a) == bits_in(b) || (is_nan(a) && is_nan(b));
}

// Any number: small, of any size, of any bits, or one at the end of a range; NaN where asked for.
template <typename T>
T number(Random& random, bool nan = true) {
  const T ends[] = {T(0),           T(1),
                    kInfinityOf<T>, kLeastNormalOf<T>,
                    of_bits<T>(1),  of_bits<T>(bits_in(kLeastNormalOf<T>) - 1),
                    kEpsilonOf<T>,  of_bits<T>(bits_in(kInfinityOf<T>) - 1),
                    T(255),         T(1e-30),
                    T(1e36),        kNanOf<T>};
  const T sign = random.bits() & 1 ? T(1) : T(-1);
  T value = T(random.uniform());
  switch (random.bits() % 4) {
    case 0:
      value = ends[random.bits() % 12];
      break;
    case 1:
      value = of_bits<T>(IntOf<T>(random.long_bits()));
      break;
    case 2:
      value = T(random.bits() % 64);  // equal ones
      break;
  }
  return is_nan(value) && !nan ? T(0) : sign * value;
}

// Sixteen numbers as an array and as lanes.
template <typename T>
struct Input {
  T lane[kLanes];
  Sixteen<T> all;
  explicit Input(Random& random, bool nan = true) {
    for (T& value : lane) value = number<T>(random, nan);
    all = load(lane);
  }
  Input(Random& random, double low, double high) {
    for (T& value : lane) value = T(random.between(low, high));
    all = load(lane);
  }
};

// A product and a sum, each rounded: volatile keeps compilers from fusing them.
template <typename T>
T rounded_twice(T a, T b, T c) {
  volatile T product = a * b;
  return product + c;
}
template <typename T>
bool rounded_once_or_twice(T value, T a, T b, T c) {
  return same(value, fused(a, b, c)) || same(value, rounded_twice(a, b, c));
}

// Whether each lane is expected(i).
template <typename T, typename Expected>
bool lanes_are(const Sixteen<T>& value, const Expected& expected) {
  T lanes[kLanes];
  store(lanes, value);
  bool good = true;
  for (int i = 0; i < kLanes; ++i) {
    if constexpr (sizeof(T) == 4 && T(0.5) == T(0))  // integers
      good &= lanes[i] == expected(i);
    else
      good &= same(lanes[i], expected(i));
  }
  return good;
}
// The mask of the lanes that hold(i).
template <typename Holds>
unsigned mask_of(const Holds& holds) {
  unsigned mask = 0;
  for (int i = 0; i < kLanes; ++i) mask |= unsigned(holds(i)) << i;
  return mask;
}

}  // namespace
}  // namespace km::KM_TARGET
