// Rows of every element type and layout, with a plain copy that the reference reads.
#pragma once

#include <cstring>
#include <memory>
#include <type_traits>

#include "abi/native.h"
#include "fuzz_input.h"
#include "reference.h"

namespace fuzz {

// Whether the instruction set in use rounds fused operations once.
extern bool rounds_once;

// What an element of a type is in the computed type, and its bits.
struct Element {
  double value;
  uint64_t bits;
};

// A half with these bits, or a bfloat16.
inline double half_value(uint32_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double size =
      exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
  return bits >> 15 ? -size : size;
}
inline double bfloat_value(uint32_t bits) {
  const uint32_t wide = bits << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

// A finite element near a value.
inline Element element_of(int32_t type, double value) {
  const int64_t whole = static_cast<int64_t>(std::fabs(value) < 1e6 ? value * 8 : 7);
  const uint64_t natural = static_cast<uint64_t>(whole < 0 ? -whole : whole);
  switch (type) {
    case KM_FLOAT16: {
      const uint64_t bits = natural * 977 % 0x7c00 | (whole < 0 ? 0x8000u : 0u);
      return {half_value(static_cast<uint32_t>(bits)), bits};
    }
    case KM_BFLOAT16: {
      const float narrow = static_cast<float>(value);
      uint32_t bits;
      std::memcpy(&bits, &narrow, sizeof(bits));
      return {bfloat_value(bits >> 16), bits >> 16};
    }
    case KM_BOOL:
      return {double(natural & 1), natural & 1};
    case KM_UINT8:
      return {double(natural & 255), natural & 255};
    case KM_INT8:
      return {double(static_cast<int8_t>(whole)), static_cast<uint64_t>(whole)};
    case KM_UINT16:
      return {double(natural & 65535), natural & 65535};
    case KM_INT16:
      return {double(static_cast<int16_t>(whole)), static_cast<uint64_t>(whole)};
    case KM_UINT32:
    case KM_UINT64:
      return {double(natural), natural};
    default:  // KM_INT32, KM_INT64
      return {double(whole), static_cast<uint64_t>(whole)};
  }
}

inline int64_t size_of_element(int32_t type) {
  constexpr int64_t kSizes[] = {4, 8, 2, 2, 1, 1, 1, 2, 2, 4, 4, 8, 8};
  return kSizes[type];
}

// Rows (n, d), their copy in the computed type, at unit length for cosine, and their weights.
template <typename T>
struct Rows {
  Rows(Input& input, int64_t n, int64_t d) : Rows(input, n, d, numbers<T>(input, n * d)) {}

  Rows(Input& input, int64_t n, int64_t d, std::vector<T> values) : plain(std::move(values)) {
    constexpr int32_t own_type = std::is_same_v<T, double> ? KM_FLOAT64 : KM_FLOAT32;
    const bool converts = input.byte() % 4 == 0;
    const int32_t type = converts ? static_cast<int32_t>(input.between(2, 12)) : own_type;
    const int64_t size = size_of_element(type);
    view.n = n, view.d = d, view.is_double = own_type, view.element = type;
    view.cosine = input.byte() % 3 == 0;
    view.beyond = &beyond;
    const int64_t gap = input.one_of({0, 0, 1, 5}), step = input.one_of({1, 1, 1, 2});
    const bool columns_first = input.byte() % 4 == 0, repeats = input.byte() % 16 == 0;
    view.row_stride = columns_first ? step : d * step + gap;
    view.column_stride = columns_first ? n * step + gap : step;
    if (repeats && n) {
      if (!columns_first) view.row_stride = 0;
      for (int64_t i = 1; i < n && !columns_first; ++i)
        std::copy_n(plain.begin(), d, plain.begin() + i * d);
    }
    // As many bytes as there are: one too far is seen.
    const int64_t last = n ? (n - 1) * view.row_stride + (d - 1) * view.column_stride + 1 : 0;
    bytes_ = std::make_unique<char[]>(last * size);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < d; ++j) {
        char* const to = bytes_.get() + (i * view.row_stride + j * view.column_stride) * size;
        T& value = plain[i * d + j];
        if (type == own_type) {
          std::memcpy(to, &value, size);
        } else {
          const Element element = element_of(type, double(value));
          value = static_cast<T>(element.value);
          std::memcpy(to, &element.bits, size);  // little endian
        }
      }
    view.x = bytes_.get();
    unit = plain;
    for (int64_t i = 0; view.cosine && i < n; ++i)
      reference::normalize(unit.data() + i * d, d, rounds_once);
    weights_ = weights(input, n);
    if (input.coin()) view.weights = weights_.data();
  }
  Rows(const Rows&) = delete;
  Rows& operator=(const Rows&) = delete;

  // Whether row i has no direction: under cosine it weighs nothing, and is at distance 1 of label
  // 0.
  bool has_none(int64_t i) const {
    const T* const row = unit.data() + i * view.d;
    return view.cosine && std::all_of(row, row + view.d, [](T value) { return value == 0; });
  }
  // Of row i in the sums.
  double weight(int64_t i) const { return has_none(i) ? 0 : view.weights ? weights_[i] : 1; }

  std::vector<T> plain, unit;
  km_rows view = {};
  int32_t beyond = 0;

 private:
  std::unique_ptr<char[]> bytes_;
  std::vector<double> weights_;
};

}  // namespace fuzz
