// The unit at which floats are split so that sums of them are exact; see ClusterSums for the split.
#pragma once

#include <cstdint>

#include "abi/native.h"

namespace km {

// Sizes of floats other than 0, as IEEE bits without the sign, whose order is that of the sizes.
struct FloatRange {
  uint32_t largest;   // 0 where there is none
  uint32_t smallest;  // 0 where there is none
};

// A unit 2^u for sums of n rows; made for their largest number. With digits(m) the least e so that
// m < 2^e, for all sums of up to n numbers x, |x| < 2^digits(largest):
//   multiples   sums of multiples of 2^u are below 2^(digits(largest) + digits(n)): 52 digits, one
//               less than a double has, where that is at most 2^(u + 52). Then |x| < 2^(u + 51),
//               and the splitter, 1.5 · 2^(u + 52), whose last digit is 2^u, rounds x to a
//               multiple.
//   remainders  x less its multiple is 2^(u - 1) at most, and a multiple of 2^l, the last digit of
//               the smallest number: 52 digits in sums where u + digits(n) - l <= 53.
class SumUnit {
 public:
  // Chooses the unit for n rows of numbers up to largest (IEEE bits) or 2^kSlack times as large.
  void choose(uint32_t largest, int64_t n);

  // Whether sums over any of n rows are exact where their numbers are in this range.
  bool is_exact(const FloatRange& range, int64_t n) const;

  // Adding it to a number and taking it off again leaves the nearest multiple of the unit.
  double splitter() const;

 private:
  // A sample of rows may miss larger numbers: up to 2^kSlack times the largest that it has.
  static constexpr int kSlack = 3;

  int exponent_ = 0;  // u
};

// The largest size of the numbers of 256 rows at most, evenly spread over all, as IEEE bits; under
// the cosine metric that of 1, which no number of a row of unit length exceeds.
uint32_t largest_in_sample(const km_rows& rows);

}  // namespace km
