#include "host/sum_unit.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "host/dispatch.h"

namespace km {

namespace {

constexpr int kDigits = 53;  // of a double
constexpr int kFloatDigits = 24;
constexpr int kLeastExponent = -125;  // digits of the least normal float, 2^-126
constexpr int64_t kSample = 256;      // rows that are read to choose a unit

// IEEE bits of a float without its sign.
uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits & 0x7fffffff;
}

float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// digits(number): the least e with number < 2^e.
int digits_of(double number) {
  int exponent = 0;
  std::frexp(number, &exponent);
  return exponent;
}

}  // namespace

// The least u for which multiples_fit below holds of numbers 2^kSlack times as large: the smaller
// the unit, the fewer digits the remainders have.
void SumUnit::choose(uint32_t largest, int64_t n) {
  exponent_ = digits_of(float_of(largest)) + kSlack + digits_of(double(n)) - (kDigits - 1);
}

bool SumUnit::is_exact(const FloatRange& range, int64_t n) const {
  constexpr uint32_t kInfinite = 0x7f800000;  // bits of infinity; NaN has larger ones
  if (range.largest == 0) return true;        // zeros
  if (range.largest >= kInfinite) return false;
  const int digits_of_n = digits_of(double(n));
  // Denormal floats end at the same digit, 2^-149, as the least normal ones.
  const int last_digit =
      std::max(digits_of(float_of(range.smallest)), kLeastExponent) - kFloatDigits;
  const bool multiples_fit =
      digits_of(float_of(range.largest)) + digits_of_n <= exponent_ + kDigits - 1;
  const bool remainders_fit = exponent_ + digits_of_n - last_digit <= kDigits;
  return multiples_fit && remainders_fit;
}

double SumUnit::splitter() const { return std::ldexp(1.5, exponent_ + kDigits - 1); }

uint32_t largest_in_sample(const km_rows& rows) {
  if (rows.cosine) return bits_of(1);  // rows have unit length; these here are not normalized yet
  uint32_t largest = 0;
  std::vector<float> row(static_cast<size_t>(rows.d));
  for (int64_t i = 0; i < rows.n; i += rows.n / kSample + 1) {
    current_kernel<float>().copy_rows(rows, i, 1, rows.d, row.data());
    for (float value : row) largest = std::max(largest, bits_of(value));
  }
  return largest;
}

}  // namespace km
