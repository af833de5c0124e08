// Sixteen numbers that are computed with together, in as many vectors as they take.
//
#pragma once

#include "kernel/simd/fused-inl.h"

namespace km::KM_TARGET {
namespace {

// Inner loops that lose their registers where compilers put them into others.
#define KM_BY_ITSELF __attribute__((noinline))

constexpr int kLanes = 16;

template <typename T>
struct Sixteen {
  typedef T Vector __attribute__((vector_size(KM_VECTOR_BYTES)));
  typedef T InMemory __attribute__((vector_size(KM_VECTOR_BYTES), aligned(sizeof(T)), may_alias));
  static constexpr int kWidth = KM_VECTOR_BYTES / sizeof(T);
  static constexpr int kParts = kLanes / kWidth;
  Vector part[kParts];
};

// Vector by vector: copies of the whole would go through memory.
template <typename T>
inline Sixteen<T> load(const T* from) {
  Sixteen<T> value;
  for (int v = 0; v < Sixteen<T>::kParts; ++v)
    value.part[v] =
        *reinterpret_cast<const typename Sixteen<T>::InMemory*>(from + v * Sixteen<T>::kWidth);
  return value;
}

template <typename T>
inline Sixteen<T> filled(T with) {
  Sixteen<T> value;
  for (int v = 0; v < Sixteen<T>::kParts; ++v) value.part[v] = typename Sixteen<T>::Vector{} + with;
  return value;
}

template <typename T>
inline void store(T* to, const Sixteen<T>& value) {
  for (int v = 0; v < Sixteen<T>::kParts; ++v)
    *reinterpret_cast<typename Sixteen<T>::InMemory*>(to + v * Sixteen<T>::kWidth) = value.part[v];
}

// Adds times x factor, lane by lane.
template <typename T>
inline void add_product(Sixteen<T>& sum, const Sixteen<T>& times, T factor) {
  for (int v = 0; v < Sixteen<T>::kParts; ++v) sum.part[v] += times.part[v] * factor;
}

inline void add_products(Sixteen<float>& sum, const Sixteen<float>& a, const Sixteen<float>& b) {
  for (int v = 0; v < Sixteen<float>::kParts; ++v) sum.part[v] += a.part[v] * b.part[v];
}

// A lane of these holds two numbers of 16 bits: adds both products, lane by lane.
inline void add_products_of_pairs(Sixteen<int32_t>& sum, const Sixteen<int32_t>& a,
                                  const Sixteen<int32_t>& b) {
  for (int v = 0; v < Sixteen<int32_t>::kParts; ++v) {
    using Vector = Sixteen<int32_t>::Vector;
#if KM_AVX512
    const __m512i products = _mm512_madd_epi16(__m512i(a.part[v]), __m512i(b.part[v]));
    sum.part[v] = Vector(_mm512_add_epi32(__m512i(sum.part[v]), products));
#elif KM_AVX2
    const __m256i products = _mm256_madd_epi16(__m256i(a.part[v]), __m256i(b.part[v]));
    sum.part[v] = Vector(_mm256_add_epi32(__m256i(sum.part[v]), products));
#elif defined(__SSE2__) && KM_VECTOR_BYTES == 16
    const __m128i products = _mm_madd_epi16(__m128i(a.part[v]), __m128i(b.part[v]));
    sum.part[v] = Vector(_mm_add_epi32(__m128i(sum.part[v]), products));
#else
    using Bits = Sixteen<uint32_t>::Vector;  // whose sums may wrap
    const Vector low_a = Vector(Bits(a.part[v]) << 16) >> 16, high_a = a.part[v] >> 16;
    const Vector low_b = Vector(Bits(b.part[v]) << 16) >> 16, high_b = b.part[v] >> 16;
    sum.part[v] = Vector(Bits(sum.part[v]) + Bits(low_a * low_b) + Bits(high_a * high_b));
#endif
  }
}

// The nearest whole numbers; of numbers below 2^22.
inline Sixteen<int32_t> rounded(const Sixteen<float>& value) {
  constexpr float kWholeOnly = 3 << 22;  // where floats have no fractions
  Sixteen<int32_t> whole;
  for (int v = 0; v < Sixteen<float>::kParts; ++v) {
    using Bits = Sixteen<uint32_t>::Vector;
    const Sixteen<float>::Vector zero = Sixteen<float>::Vector{} + kWholeOnly;
    const Sixteen<float>::Vector shifted = value.part[v] + kWholeOnly;
    whole.part[v] = Sixteen<int32_t>::Vector(Bits(shifted) - Bits(zero));
  }
  return whole;
}

inline Sixteen<float> as_floats(const Sixteen<int32_t>& value) {
  Sixteen<float> same;
  for (int v = 0; v < Sixteen<float>::kParts; ++v)
    same.part[v] = __builtin_convertvector(value.part[v], Sixteen<float>::Vector);
  return same;
}

// Two numbers of 16 bits in a lane.
inline Sixteen<int32_t> paired(const Sixteen<int32_t>& low, const Sixteen<int32_t>& high) {
  Sixteen<int32_t> both;
  for (int v = 0; v < Sixteen<int32_t>::kParts; ++v)
    both.part[v] = (low.part[v] & 0xffff) |
                   Sixteen<int32_t>::Vector(Sixteen<uint32_t>::Vector(high.part[v]) << 16);
  return both;
}

inline Sixteen<float> times(Sixteen<float> a, const Sixteen<float>& b) {
  for (int v = 0; v < Sixteen<float>::kParts; ++v) a.part[v] *= b.part[v];
  return a;
}

inline Sixteen<float> square_root(Sixteen<float> value) {
  for (int v = 0; v < Sixteen<float>::kParts; ++v) value.part[v] = square_root(value.part[v]);
  return value;
}

// At least a number, and that where there is NaN.
inline Sixteen<float> no_less(Sixteen<float> value, float number) {
  for (int v = 0; v < Sixteen<float>::kParts; ++v) {
    const auto least = Sixteen<float>::Vector{} + number;
    value.part[v] = value.part[v] > least ? value.part[v] : least;
  }
  return value;
}

template <typename T>
inline Sixteen<T> times(Sixteen<T> a, T factor) {
  for (int v = 0; v < Sixteen<T>::kParts; ++v) a.part[v] *= factor;
  return a;
}

template <typename T>
inline Sixteen<T> divided(Sixteen<T> a, T by) {
  for (int v = 0; v < Sixteen<T>::kParts; ++v) a.part[v] /= by;
  return a;
}

template <typename T>
inline void raise_to_size(Sixteen<T>& most, const Sixteen<T>& value) {
  for (int v = 0; v < Sixteen<T>::kParts; ++v)
    most.part[v] = larger_of(most.part[v], size_of(value.part[v]));
}

inline Sixteen<float> reciprocal(Sixteen<float> value) {
  for (int v = 0; v < Sixteen<float>::kParts; ++v) value.part[v] = 1 / value.part[v];
  return value;
}

template <typename T>
inline void add_square_of_difference(Sixteen<T>& sum, const Sixteen<T>& a, const Sixteen<T>& b) {
  for (int v = 0; v < Sixteen<T>::kParts; ++v) {
    const auto difference = a.part[v] - b.part[v];
    sum.part[v] = fused(difference, difference, sum.part[v]);
  }
}

template <typename T>
inline void add_square(Sixteen<T>& sum, const Sixteen<T>& value) {
  for (int v = 0; v < Sixteen<T>::kParts; ++v)
    sum.part[v] = fused(value.part[v], value.part[v], sum.part[v]);
}

inline Sixteen<float> minus(Sixteen<float> a, const Sixteen<float>& b) {
  for (int v = 0; v < Sixteen<float>::kParts; ++v) a.part[v] -= b.part[v];
  return a;
}

// Subtracted in double precision, then rounded.
inline Sixteen<float> minus(const Sixteen<double>& a, const Sixteen<float>& b) {
  double from[kLanes];
  float lanes[kLanes];
  store(from, a);
  store(lanes, b);
  for (int i = 0; i < kLanes; ++i) lanes[i] = static_cast<float>(from[i] - lanes[i]);
  return load(lanes);
}

// a x factor + b, lane by lane.
inline Sixteen<float> times_plus(const Sixteen<float>& a, float factor, Sixteen<float> b) {
  add_product(b, a, factor);
  return b;
}

template <typename T>
inline void add(Sixteen<T>& sum, const Sixteen<T>& other) {
  for (int v = 0; v < Sixteen<T>::kParts; ++v) sum.part[v] += other.part[v];
}

// Halves are added until one number is left: lanes 0 and 8 first. The same order everywhere.
template <typename T>
inline T total(const Sixteen<T>& value) {
  T lanes[kLanes];
  store(lanes, value);
  for (int half = kLanes / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}

template <typename T>
inline T largest(const Sixteen<T>& value) {
  T lanes[kLanes];
  store(lanes, value);
  for (int half = kLanes / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] = larger_of(lanes[i], lanes[i + half]);
  return lanes[0];
}

// Totals of four.
inline void totals(const Sixteen<int32_t> (&values)[4], int32_t* to) {
#if KM_AVX512
  const __m512i a = __m512i(values[0].part[0]), b = __m512i(values[1].part[0]);
  const __m512i c = __m512i(values[2].part[0]), d = __m512i(values[3].part[0]);
  const __m512i of_ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
  const __m512i of_cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
  const __m512i sixteen =
      _mm512_add_epi32(_mm512_unpacklo_epi64(of_ab, of_cd), _mm512_unpackhi_epi64(of_ab, of_cd));
  const __m256i eight =
      _mm256_add_epi32(_mm512_castsi512_si256(sixteen), _mm512_extracti64x4_epi64(sixteen, 1));
#elif KM_AVX2
  __m256i of[4];
  for (int i = 0; i < 4; ++i)
    of[i] = _mm256_add_epi32(__m256i(values[i].part[0]), __m256i(values[i].part[1]));
  const __m256i of_ab =
      _mm256_add_epi32(_mm256_unpacklo_epi32(of[0], of[1]), _mm256_unpackhi_epi32(of[0], of[1]));
  const __m256i of_cd =
      _mm256_add_epi32(_mm256_unpacklo_epi32(of[2], of[3]), _mm256_unpackhi_epi32(of[2], of[3]));
  const __m256i eight =
      _mm256_add_epi32(_mm256_unpacklo_epi64(of_ab, of_cd), _mm256_unpackhi_epi64(of_ab, of_cd));
#endif
#if KM_AVX512 || KM_AVX2
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(to),
      _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1)));
#else
  for (int i = 0; i < 4; ++i) {
    int32_t lanes[kLanes];
    store(lanes, values[i]);
    to[i] = 0;
    for (int32_t lane : lanes) to[i] += lane;
  }
#endif
}

// Columns of those rows of a table (., 4), row by row in the lanes.
inline void gather(const float (*table)[4], const int32_t* which, Sixteen<float> (&columns)[4]) {
#if KM_AVX512
  auto row = [&](int r) { return _mm_loadu_ps(table[which[r]]); };
  __m512 rows[4];
  for (int r = 0; r < 4; ++r) {
    const __m512 two = _mm512_insertf32x4(_mm512_castps128_ps512(row(r)), row(4 + r), 1);
    rows[r] = _mm512_insertf32x4(_mm512_insertf32x4(two, row(8 + r), 2), row(12 + r), 3);
  }
  const __m512 low[2] = {_mm512_unpacklo_ps(rows[0], rows[1]),
                         _mm512_unpacklo_ps(rows[2], rows[3])};
  const __m512 high[2] = {_mm512_unpackhi_ps(rows[0], rows[1]),
                          _mm512_unpackhi_ps(rows[2], rows[3])};
  columns[0].part[0] = _mm512_shuffle_ps(low[0], low[1], 0x44);
  columns[1].part[0] = _mm512_shuffle_ps(low[0], low[1], 0xee);
  columns[2].part[0] = _mm512_shuffle_ps(high[0], high[1], 0x44);
  columns[3].part[0] = _mm512_shuffle_ps(high[0], high[1], 0xee);
#elif KM_AVX2
  auto row = [&](int r) { return _mm_loadu_ps(table[which[r]]); };
  for (int v = 0; v < 2; ++v) {
    __m256 rows[4];
    for (int r = 0; r < 4; ++r) rows[r] = _mm256_set_m128(row(8 * v + 4 + r), row(8 * v + r));
    const __m256 low[2] = {_mm256_unpacklo_ps(rows[0], rows[1]),
                           _mm256_unpacklo_ps(rows[2], rows[3])};
    const __m256 high[2] = {_mm256_unpackhi_ps(rows[0], rows[1]),
                            _mm256_unpackhi_ps(rows[2], rows[3])};
    columns[0].part[v] = _mm256_shuffle_ps(low[0], low[1], 0x44);
    columns[1].part[v] = _mm256_shuffle_ps(low[0], low[1], 0xee);
    columns[2].part[v] = _mm256_shuffle_ps(high[0], high[1], 0x44);
    columns[3].part[v] = _mm256_shuffle_ps(high[0], high[1], 0xee);
  }
#else
  for (int j = 0; j < 4; ++j) {
    float lanes[kLanes];
    for (int r = 0; r < kLanes; ++r) lanes[r] = table[which[r]][j];
    columns[j] = load(lanes);
  }
#endif
}

#if KM_AVX512
inline float total(const Sixteen<float>& value) {
  const __m512 all = value.part[0];
  const __m256 eight = _mm512_castps512_ps256(all) +
                       _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(all), 1));
  const __m128 four = _mm256_castps256_ps128(eight) + _mm256_extractf128_ps(eight, 1);
  const __m128 two = four + _mm_movehl_ps(four, four);
  return two[0] + two[1];
}
inline float largest(const Sixteen<float>& value) { return _mm512_reduce_max_ps(value.part[0]); }
inline double total(const Sixteen<double>& value) {
  const __m512d eight = value.part[0] + value.part[1];
  const __m256d four = _mm512_castpd512_pd256(eight) + _mm512_extractf64x4_pd(eight, 1);
  const __m128d two = _mm256_castpd256_pd128(four) + _mm256_extractf128_pd(four, 1);
  return two[0] + two[1];
}
inline unsigned at_least(const Sixteen<float>& value, float limit) {
  return _mm512_cmp_ps_mask(value.part[0], _mm512_set1_ps(limit), _CMP_GE_OQ);
}
#elif KM_AVX2
inline float total(const Sixteen<float>& value) {
  const __m256 eight = value.part[0] + value.part[1];
  const __m128 four = _mm256_castps256_ps128(eight) + _mm256_extractf128_ps(eight, 1);
  const __m128 two = four + _mm_movehl_ps(four, four);
  return two[0] + two[1];
}
inline float largest(const Sixteen<float>& value) {
  const __m256 eight = _mm256_max_ps(value.part[0], value.part[1]);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return larger_of(two[0], two[1]);
}
inline unsigned at_least(const Sixteen<float>& value, float limit) {
  const __m256 all = _mm256_set1_ps(limit);
  return unsigned(_mm256_movemask_ps(_mm256_cmp_ps(value.part[0], all, _CMP_GE_OQ))) |
         unsigned(_mm256_movemask_ps(_mm256_cmp_ps(value.part[1], all, _CMP_GE_OQ))) << 8;
}
#else
inline unsigned at_least(const Sixteen<float>& value, float limit) {
  float lanes[kLanes];
  store(lanes, value);
  unsigned mask = 0;
  for (int i = 0; i < kLanes; ++i) mask |= unsigned(lanes[i] >= limit) << i;
  return mask;
}
#endif

// Which lanes are at least those of the limit.
inline unsigned at_least(const Sixteen<float>& value, const Sixteen<float>& limit) {
#if KM_AVX512
  return _mm512_cmp_ps_mask(value.part[0], limit.part[0], _CMP_GE_OQ);
#elif KM_AVX2
  return unsigned(_mm256_movemask_ps(_mm256_cmp_ps(value.part[0], limit.part[0], _CMP_GE_OQ))) |
         unsigned(_mm256_movemask_ps(_mm256_cmp_ps(value.part[1], limit.part[1], _CMP_GE_OQ))) << 8;
#else
  float lanes[kLanes], limits[kLanes];
  store(lanes, value);
  store(limits, limit);
  unsigned mask = 0;
  for (int i = 0; i < kLanes; ++i) mask |= unsigned(lanes[i] >= limits[i]) << i;
  return mask;
#endif
}

// Which of sixteen numbers are below a limit.
inline unsigned below(const float* numbers, float limit) {
  return ~at_least(load(numbers), limit) & 0xffffu;
}

// Raises top by the scores below a limit; returns which lanes are not below.
inline unsigned raise_to_lower(Sixteen<float>& top, const Sixteen<float>& score,
                               const Sixteen<float>& limit) {
  for (int v = 0; v < Sixteen<float>::kParts; ++v) {
    const auto lower = score.part[v] < limit.part[v] ? score.part[v] : top.part[v];
    top.part[v] = lower > top.part[v] ? lower : top.part[v];
  }
  return at_least(score, limit);
}

// a with another number in the lanes whose bit is not set.
inline Sixteen<float> only(unsigned which, const Sixteen<float>& a, float other) {
#if KM_AVX512
  Sixteen<float> chosen;
  chosen.part[0] =
      _mm512_mask_mov_ps(_mm512_set1_ps(other), static_cast<__mmask16>(which), a.part[0]);
  return chosen;
#elif KM_AVX2
  Sixteen<float> chosen;
  for (int v = 0; v < 2; ++v) {
    const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i set =
        _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(int(which >> (8 * v))), bits), bits);
    chosen.part[v] = _mm256_blendv_ps(_mm256_set1_ps(other), a.part[v], _mm256_castsi256_ps(set));
  }
  return chosen;
#else
  float lanes[kLanes];
  store(lanes, a);
  for (int i = 0; i < kLanes; ++i) lanes[i] = which >> i & 1 ? lanes[i] : other;
  return load(lanes);
#endif
}

// Columns of sixteen rows: to[j * step + r] is number j of row r, for sixteen j.
template <typename T>
inline void transpose(const T* const (&rows)[kLanes], T* to, int64_t step) {
  static_assert(sizeof(T) == sizeof(float));
#if KM_AVX512
  __m512 a[16], b[16];
  for (int r = 0; r < 16; ++r) a[r] = _mm512_loadu_ps(reinterpret_cast<const float*>(rows[r]));
  for (int r = 0; r < 16; r += 2) {
    b[r] = _mm512_unpacklo_ps(a[r], a[r + 1]);
    b[r + 1] = _mm512_unpackhi_ps(a[r], a[r + 1]);
  }
  for (int r = 0; r < 16; r += 4)
    for (int half = 0; half < 2; ++half) {
      a[r + 2 * half] = _mm512_shuffle_ps(b[r + half], b[r + 2 + half], 0x44);
      a[r + 2 * half + 1] = _mm512_shuffle_ps(b[r + half], b[r + 2 + half], 0xee);
    }
  float* const columns = reinterpret_cast<float*>(to);
  for (int j = 0; j < 4; ++j) {  // number j of each four, of all rows
    const __m512 low = _mm512_shuffle_f32x4(a[j], a[4 + j], 0x88);
    const __m512 high = _mm512_shuffle_f32x4(a[j], a[4 + j], 0xdd);
    const __m512 more_low = _mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0x88);
    const __m512 more_high = _mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0xdd);
    _mm512_storeu_ps(columns + j * step, _mm512_shuffle_f32x4(low, more_low, 0x88));
    _mm512_storeu_ps(columns + (8 + j) * step, _mm512_shuffle_f32x4(low, more_low, 0xdd));
    _mm512_storeu_ps(columns + (4 + j) * step, _mm512_shuffle_f32x4(high, more_high, 0x88));
    _mm512_storeu_ps(columns + (12 + j) * step, _mm512_shuffle_f32x4(high, more_high, 0xdd));
  }
#elif KM_AVX2
  for (int first = 0; first < kLanes; first += 8)      // eight rows
    for (int begin = 0; begin < kLanes; begin += 8) {  // eight columns
      __m256 a[8], b[8];
      for (int r = 0; r < 8; ++r)
        a[r] = _mm256_loadu_ps(reinterpret_cast<const float*>(rows[first + r] + begin));
      for (int r = 0; r < 8; r += 2) {
        b[r] = _mm256_unpacklo_ps(a[r], a[r + 1]);
        b[r + 1] = _mm256_unpackhi_ps(a[r], a[r + 1]);
      }
      for (int r = 0; r < 8; r += 4)
        for (int half = 0; half < 2; ++half) {
          a[r + 2 * half] = _mm256_shuffle_ps(b[r + half], b[r + 2 + half], 0x44);
          a[r + 2 * half + 1] = _mm256_shuffle_ps(b[r + half], b[r + 2 + half], 0xee);
        }
      float* const block = reinterpret_cast<float*>(to) + begin * step + first;
      for (int j = 0; j < 4; ++j) {
        _mm256_storeu_ps(block + j * step, _mm256_permute2f128_ps(a[j], a[4 + j], 0x20));
        _mm256_storeu_ps(block + (4 + j) * step, _mm256_permute2f128_ps(a[j], a[4 + j], 0x31));
      }
    }
#else
  for (int r = 0; r < kLanes; ++r)
    for (int j = 0; j < kLanes; ++j) to[j * step + r] = rows[r][j];
#endif
}

}  // namespace
}  // namespace km::KM_TARGET
