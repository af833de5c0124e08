// Values as integers, so that their sums are the same in whatever order they are added up: sums of
// doubles would depend on how many threads and ranks share the values, and so would the rows that
// seeding draws by these sums.
#pragma once

#include "kernel/simd/standard.h"

namespace km::KM_TARGET {
namespace {

// A value v counts as v · 2^exponent, rounded to the nearest integer (ties to even): at least 1
// where v is positive, so that it can be drawn, and 2^bits at most; 0 where v is 0 or NaN. bits is
// 51 at most, the digits that rounding by kWholeOnly leaves; exponent is -2000 to 2000.
class Counted {
 public:
  typedef double Values __attribute__((vector_size(KM_VECTOR_BYTES)));
  typedef int64_t Integers __attribute__((vector_size(KM_VECTOR_BYTES)));
  static constexpr int kTogether = KM_VECTOR_BYTES / sizeof(double);

  Counted(int exponent, int bits)
      : half_power_(power_of_two(exponent / 2)),
        other_half_(power_of_two(exponent - exponent / 2)),
        most_(power_of_two(bits)) {}

  Integers operator()(const Values& values) const {
    const Values none = {}, one = none + 1, most = none + most_;
    // In two steps: 2^exponent alone may be no double, whose exponents end at 1023.
    Values scaled = values * half_power_ * other_half_;
    scaled = scaled > one ? scaled : one;
    scaled = scaled < most ? scaled : most;
    scaled = values > none ? scaled : none;
    return bits_of(scaled + kWholeOnly) - bits_of(none + kWholeOnly);
  }

 private:
  // From 2^52 to 2^53 doubles are the integers, and their bits count up by 1: adding 2^52 rounds,
  // and the difference of the bits is the integer. No instruction set before AVX-512 converts
  // doubles to 64-bit integers by vectors.
  static constexpr double kWholeOnly = int64_t{1} << 52;

  static Integers bits_of(const Values& values) {
    Integers bits;
    std::memcpy(&bits, &values, sizeof(bits));
    return bits;
  }
  // 2^exponent, for exponents -1022 to 1023: the exponent field of a double, with its bias.
  static double power_of_two(int exponent) {
    const int64_t bits = int64_t(exponent + 1023) << 52;
    double value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
  }

  double half_power_, other_half_;  // whose product is 2^exponent
  double most_;                     // 2^bits
};

// See Kernel::count. Returns the sum of n values as integers, and writes these to integers (n)
// unless it is null. The caller chooses bits so that the sum of all values fits 63 bits.
template <typename T>
int64_t count(const T* values, int64_t n, int exponent, int bits, int64_t* integers) {
  constexpr int kTogether = Counted::kTogether;
  const Counted counted(exponent, bits);
  Counted::Integers sum = {};
  for (int64_t first = 0; first < n; first += kTogether) {
    Counted::Values batch = {};  // filled up by zeros, which count as 0
    if (n - first >= kTogether)
      for (int lane = 0; lane < kTogether; ++lane) batch[lane] = values[first + lane];
    else
      for (int lane = 0; lane < n - first; ++lane) batch[lane] = values[first + lane];
    const Counted::Integers whole = counted(batch);
    sum += whole;
    if (integers)
      for (int lane = 0; lane < kTogether && first + lane < n; ++lane)
        integers[first + lane] = whole[lane];
  }
  int64_t total = 0;
  for (int lane = 0; lane < kTogether; ++lane) total += sum[lane];
  return total;
}

}  // namespace
}  // namespace km::KM_TARGET
