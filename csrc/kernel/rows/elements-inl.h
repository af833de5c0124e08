// Numbers of each type S that rows may hold (km_element), converted to T, the float or double that
// distances are computed in. Half precision and integers up to 2^24 in size are floats exactly, so
// that a conversion rounds nothing; the caller is told of integers beyond (km_rows::beyond), and
// starts again in double.
#pragma once

#include "kernel/simd/standard.h"
#include "kernel/table.h"

namespace km::KM_TARGET {
namespace {

// Types that C++17 has no name for, as they are in memory.
struct Half {  // IEEE binary16: sign, 5 bits of exponent, 10 of fraction
  uint16_t bits;
};
struct Bfloat16 {  // the upper half of a float
  uint16_t bits;
};
struct Bool {  // torch writes 0 or 1
  uint8_t byte;
};

// The float whose IEEE representation is bits.
inline float float_of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// Whether integers of type S may be beyond 2^24 in size, where not all of them are floats.
template <typename S>
constexpr bool kWide = std::is_integral_v<S> && sizeof(S) >= 4;

// Whether an integer is beyond 2^24 in size. Signed integers take a single unsigned comparison:
// value + 2^24 is in [0, 2^25] just where |value| <= 2^24, and wraps to more where value is below.
template <typename S>
inline bool is_beyond(S value) {
  using Bits = std::make_unsigned_t<S>;
  constexpr Bits kMost = KM_MOST_INTEGER_OF_FLOAT;
  return std::is_signed_v<S> ? Bits(value) + kMost > 2 * kMost : Bits(value) > kMost;
}

// value as T, where S is a type that C++ converts.
template <typename T, typename S>
inline T converted(S value) {
  // By way of 32 bits, which AVX2 has a vector conversion for and 64 bits have not; integers that
  // do not fit there are beyond 2^24, and their results are void.
  if constexpr (std::is_same_v<T, float> && kWide<S>)
    return static_cast<T>(static_cast<int32_t>(value));
  else
    return static_cast<T>(value);
}

template <typename T>
inline T converted(Bfloat16 value) {
  return float_of_bits(uint32_t{value.bits} << 16);
}

// Half precision as T. The exponent and the fraction move up by 13 places, and the bias of the
// exponent becomes that of floats (15 -> 127). A subnormal number, 0.f · 2^-14, is made 1.f ·
// 2^-14, of which 2^-14 is taken off again: no operand is a subnormal float, which a processor that
// flushes denormals would read as 0. Infinity and NaN keep their exponent of ones. There is no
// branch, so that compilers make vectors of a loop over this.
template <typename T>
inline T converted(Half value) {
  constexpr int32_t kBias = (127 - 15) << 23, kLeastNormal = 1 << 23, kInfinite = 0x1f << 23;
  const int32_t size = (value.bits & 0x7fff) << 13;
  const int32_t infinite = (kInfinite - 1 - size) >> 31;  // all bits, or none
  const int32_t subnormal = (size - kLeastNormal) >> 31;
  const float digits =
      float_of_bits(uint32_t(size + kBias + (infinite & kBias) + (subnormal & kLeastNormal)));
  const float number = digits - float_of_bits(uint32_t(subnormal & (kBias + kLeastNormal)));
  uint32_t bits;
  std::memcpy(&bits, &number, sizeof(bits));
  return float_of_bits(bits | (uint32_t{value.bits} & 0x8000u) << 16);
}

template <typename T>
inline T converted(Bool value) {
  return value.byte ? T(1) : T(0);
}

// Converts count numbers of S at `from`, step elements apart, to (count) numbers of T. Returns
// whether one of them is an integer that needs a double, but T is float. Read by memcpy: bytes of
// rows have no type.
template <typename S, typename T>
inline bool convert(const char* __restrict from, int64_t count, int64_t step, T* __restrict to) {
  auto number = [from](int64_t j) {
    S value;
    std::memcpy(&value, from + j * int64_t(sizeof(S)), sizeof(S));
    return value;
  };
  int64_t j = 0;
#if KM_AVX512  // has an instruction for half precision, which no flag flushes
  if constexpr (std::is_same_v<S, Half> && std::is_same_v<T, float>)
    for (; step == 1 && j + 16 <= count; j += 16)
      _mm512_storeu_ps(
          to + j,
          _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 2 * j))));
#endif
  if constexpr (std::is_same_v<T, float> && kWide<S>) {
    S beyond = 0;
    if (step == 1)  // a constant step: compilers make vectors of this loop
      for (; j < count; ++j) {
        beyond |= S(is_beyond(number(j)));
        to[j] = converted<T>(number(j));
      }
    for (; j < count; ++j) {
      beyond |= S(is_beyond(number(j * step)));
      to[j] = converted<T>(number(j * step));
    }
    return beyond != 0;
  }
  if (step == 1)
    for (; j < count; ++j) to[j] = converted<T>(number(j));
  for (; j < count; ++j) to[j] = converted<T>(number(j * step));
  return false;
}

// Calls call(S{}) for the type S that a km_element names, and returns the result of call; numbers
// that are not in the list are floats, KM_FLOAT32.
template <typename Call>
inline auto with_element(int32_t element, const Call& call) {
  switch (element) {
    case KM_FLOAT64:
      return call(double{});
    case KM_FLOAT16:
      return call(Half{});
    case KM_BFLOAT16:
      return call(Bfloat16{});
    case KM_BOOL:
      return call(Bool{});
    case KM_UINT8:
      return call(uint8_t{});
    case KM_INT8:
      return call(int8_t{});
    case KM_UINT16:
      return call(uint16_t{});
    case KM_INT16:
      return call(int16_t{});
    case KM_UINT32:
      return call(uint32_t{});
    case KM_INT32:
      return call(int32_t{});
    case KM_UINT64:
      return call(uint64_t{});
    case KM_INT64:
      return call(int64_t{});
    default:
      return call(float{});
  }
}

}  // namespace
}  // namespace km::KM_TARGET
