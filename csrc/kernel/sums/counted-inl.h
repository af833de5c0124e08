// Numbers as integers, so that their sums are the same in whatever order they are added up.
//
#pragma once

#include "kernel/simd/standard.h"

namespace km::KM_TARGET {
namespace {

// A value v counts as v * 2^exponent, rounded to the nearest integer (ties to even): at least 1
// where v is positive, and 2^bits at most. bits is 51 at most.
class Counted {
 public:
  typedef double Values __attribute__((vector_size(KM_VECTOR_BYTES)));
  typedef int64_t Integers __attribute__((vector_size(KM_VECTOR_BYTES)));
  static constexpr int kTogether = KM_VECTOR_BYTES / sizeof(double);

  Counted(int exponent, int bits)
      : half_(power_of_two(exponent / 2)),
        rest_(power_of_two(exponent - exponent / 2)),
        most_(power_of_two(bits)) {}

  Integers operator()(const Values& values) const {
    const Values none = {}, one = none + 1, most = none + most_;
    // In two steps: the power alone may be out of range.
    Values scaled = values * half_ * rest_;
    scaled = scaled > one ? scaled : one;
    scaled = scaled < most ? scaled : most;
    scaled = values > none ? scaled : none;
    return bits_of(scaled + kWholeOnly) - bits_of(none + kWholeOnly);
  }

 private:
  static constexpr double kWholeOnly = int64_t{1} << 52;  // where doubles have no fractions

  static Integers bits_of(const Values& values) {
    Integers bits;
    std::memcpy(&bits, &values, sizeof(bits));
    return bits;
  }
  static double power_of_two(int exponent) {
    const int64_t bits = int64_t(exponent + 1023) << 52;
    double value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
  }

  double half_, rest_, most_;
};

// See Kernel::count.
template <typename T>
int64_t count(const T* values, int64_t n, int exponent, int bits, int64_t* integers) {
  constexpr int kTogether = Counted::kTogether;
  const Counted counted(exponent, bits);
  Counted::Integers sum = {};
  for (int64_t first = 0; first < n; first += kTogether) {
    Counted::Values some = {};
    if (n - first >= kTogether)
      for (int lane = 0; lane < kTogether; ++lane) some[lane] = values[first + lane];
    else
      for (int lane = 0; lane < n - first; ++lane) some[lane] = values[first + lane];
    const Counted::Integers its = counted(some);
    sum += its;
    if (integers)
      for (int lane = 0; lane < kTogether && first + lane < n; ++lane)
        integers[first + lane] = its[lane];
  }
  int64_t total = 0;
  for (int lane = 0; lane < kTogether; ++lane) total += sum[lane];
  return total;
}

}  // namespace
}  // namespace km::KM_TARGET
