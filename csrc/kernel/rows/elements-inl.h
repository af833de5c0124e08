// Numbers of every type that rows may hold, converted to the type that distances are computed in.
// Half precision and integers up to 2^24 are floats exactly, so that a conversion rounds nothing.
//
#pragma once

#include "kernel/simd/standard.h"
#include "kernel/table.h"

namespace km::KM_TARGET {
namespace {

struct Half {
  uint16_t bits;
};
struct Bfloat16 {
  uint16_t bits;
};
struct Bool {
  uint8_t byte;
};

inline float float_of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// Whether integers of type S may be beyond 2^24, and whether one of them is.
template <typename S>
constexpr bool kWide = std::is_integral_v<S> && sizeof(S) >= 4;
template <typename S>
inline bool is_beyond(S value) {
  using Bits = std::make_unsigned_t<S>;
  constexpr Bits kMost = KM_MOST_INTEGER_OF_FLOAT;
  return std::is_signed_v<S> ? Bits(value) + kMost > 2 * kMost : Bits(value) > kMost;
}

template <typename T, typename S>
inline T converted(S value) {
  // Vectors have no conversion from 64 bits, which only integers beyond 2^24 need.
  if constexpr (std::is_same_v<T, float> && kWide<S>)
    return static_cast<T>(static_cast<int32_t>(value));
  else
    return static_cast<T>(value);
}
template <typename T>
inline T converted(Bfloat16 value) {
  return float_of_bits(uint32_t{value.bits} << 16);
}
// Has no branch, so that compilers make vectors of a loop over it. Numbers below the normal ones of
// half precision get a leading digit, which a subtraction takes off again: no float is below the
// normal ones of floats, which torch may have flushed to 0.
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

// Converts count numbers, step apart, which need not be aligned. Returns whether one of them would
// need a double.
template <typename S, typename T>
inline bool convert(const char* __restrict from, int64_t count, int64_t step, T* __restrict to) {
  auto number = [from](int64_t j) {
    S value;
    std::memcpy(&value, from + j * int64_t(sizeof(S)), sizeof(S));
    return value;
  };
  int64_t j = 0;
#if defined(__AVX512F__)  // has an instruction for half precision
  if constexpr (std::is_same_v<S, Half> && std::is_same_v<T, float>)
    for (; step == 1 && j + 16 <= count; j += 16)
      _mm512_storeu_ps(
          to + j,
          _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 2 * j))));
#endif
  if constexpr (std::is_same_v<T, float> && kWide<S>) {
    S beyond = 0;
    if (step == 1)  // loops that compilers make vectors of
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

// Calls something with a number of the type of an element.
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

// See Kernel::copy_rows.
template <typename T>
__attribute__((noinline)) void copy_rows(const km_rows& rows, int64_t first, int64_t count,
                                         int64_t pitch, T* to) {
  with_element(rows.element, [&](auto zero) {
    using S = decltype(zero);
    constexpr int64_t kSize = sizeof(S);
    const char* row = static_cast<const char*>(rows.x) + first * rows.row_stride * kSize;
    const bool gapless = rows.row_stride == rows.d && pitch == rows.d && rows.column_stride == 1;
    bool beyond = false;
    if (gapless)
      beyond = convert<S>(row, count * rows.d, 1, to);
    else
      for (int64_t i = 0; i < count; ++i, row += rows.row_stride * kSize)
        beyond |= convert<S>(row, rows.d, rows.column_stride, to + i * pitch);
    if (beyond && rows.beyond) __atomic_store_n(rows.beyond, 1, __ATOMIC_RELAXED);
  });
}

// Rows first to first + count as rows of T: where they are, or converted to copies (count, d).
template <typename T>
inline km_rows rows_of(const km_rows& rows, int64_t first, int64_t count, T* copies) {
  km_rows some = rows;
  some.n = count;
  if (converts(rows)) {
    copy_rows(rows, first, count, rows.d, copies);
    some.x = copies;
    some.element = sizeof(T) == 8 ? KM_FLOAT64 : KM_FLOAT32;
    some.row_stride = rows.d;
    some.column_stride = 1;
  } else {
    some.x = static_cast<const T*>(rows.x) + first * rows.row_stride;
  }
  return some;
}

// Asks memory for a row that will be needed soon.
inline void fetch_row(const km_rows& rows, int64_t i) {
  if (rows.column_stride != 1) return;
  const int64_t size = with_element(rows.element, [](auto zero) { return int64_t(sizeof(zero)); });
  const char* const row = static_cast<const char*>(rows.x) + i * rows.row_stride * size;
  for (int64_t j = 0; j < rows.d * size; j += 64) __builtin_prefetch(row + j);
}

}  // namespace
}  // namespace km::KM_TARGET
