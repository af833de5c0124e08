// Sixteen numbers that are computed with together, in as many vectors as they take.
// Included by kernel.inc, once per instruction set.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr int kLanes = 16;

template <typename T>
struct Sixteen {
  typedef T Vector __attribute__((vector_size(KM_VECTOR_BYTES)));
  static constexpr int kWidth = KM_VECTOR_BYTES / sizeof(T);
  static constexpr int kParts = kLanes / kWidth;
  Vector part[kParts];
};

template <typename T>
inline Sixteen<T> load(const T* from) {
  Sixteen<T> value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

template <typename T>
inline void store(T* to, const Sixteen<T>& value) {
  std::memcpy(to, &value, sizeof(value));
}

// Adds times x factor, lane by lane.
template <typename T>
inline void add_product(Sixteen<T>& sum, const Sixteen<T>& times, T factor) {
  for (int v = 0; v < Sixteen<T>::kParts; ++v) sum.part[v] += times.part[v] * factor;
}

template <typename T>
inline void add_square_of_difference(Sixteen<T>& sum, const Sixteen<T>& a, const Sixteen<T>& b) {
  for (int v = 0; v < Sixteen<T>::kParts; ++v) {
    const auto difference = a.part[v] - b.part[v];
    sum.part[v] += difference * difference;
  }
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

#if defined(__AVX512F__)
inline float total(const Sixteen<float>& value) { return _mm512_reduce_add_ps(value.part[0]); }
inline double total(const Sixteen<double>& value) {
  return _mm512_reduce_add_pd(value.part[0] + value.part[1]);
}
inline float largest(const Sixteen<float>& value) { return _mm512_reduce_max_ps(value.part[0]); }
inline unsigned at_least(const Sixteen<float>& value, float limit) {
  return _mm512_cmp_ps_mask(value.part[0], _mm512_set1_ps(limit), _CMP_GE_OQ);
}
#elif defined(__AVX2__)
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
  return two[0] > two[1] ? two[0] : two[1];
}
inline unsigned at_least(const Sixteen<float>& value, float limit) {
  const __m256 all = _mm256_set1_ps(limit);
  return unsigned(_mm256_movemask_ps(_mm256_cmp_ps(value.part[0], all, _CMP_GE_OQ))) |
         unsigned(_mm256_movemask_ps(_mm256_cmp_ps(value.part[1], all, _CMP_GE_OQ))) << 8;
}
#else
inline float largest(const Sixteen<float>& value) {
  float lanes[kLanes];
  store(lanes, value);
  for (int half = kLanes / 2; half; half /= 2)
    for (int i = 0; i < half; ++i)
      lanes[i] = lanes[i] > lanes[i + half] ? lanes[i] : lanes[i + half];
  return lanes[0];
}
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
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(value.part[0], limit.part[0], _CMP_GE_OQ);
#elif defined(__AVX2__)
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

// The largest lane of each of a few.
template <int R>
inline void largest_of_each(const Sixteen<float> (&values)[R], float* to) {
#if defined(__AVX512F__)
  static_assert(R == 8, "halves of eight are brought together");
  __m256 half[8], pair[4], four[2];
  for (int r = 0; r < 8; ++r)
    half[r] = _mm256_max_ps(_mm512_castps512_ps256(values[r].part[0]),
                            _mm512_extractf32x8_ps(values[r].part[0], 1));
  for (int r = 0; r < 4; ++r)
    pair[r] = _mm256_max_ps(_mm256_unpacklo_ps(half[2 * r], half[2 * r + 1]),
                            _mm256_unpackhi_ps(half[2 * r], half[2 * r + 1]));
  for (int r = 0; r < 2; ++r)
    four[r] = _mm256_max_ps(_mm256_shuffle_ps(pair[2 * r], pair[2 * r + 1], 0x44),
                            _mm256_shuffle_ps(pair[2 * r], pair[2 * r + 1], 0xee));
  _mm256_storeu_ps(to, _mm256_max_ps(_mm256_permute2f128_ps(four[0], four[1], 0x20),
                                     _mm256_permute2f128_ps(four[0], four[1], 0x31)));
#else
  for (int r = 0; r < R; ++r) to[r] = largest(values[r]);
#endif
}

// The value with one lane so low that nothing finds it.
inline Sixteen<float> without(Sixteen<float> value, int lane) {
#if defined(__AVX512F__)
  const __m512 low = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  value.part[0] = _mm512_mask_mov_ps(value.part[0], static_cast<__mmask16>(1u << lane), low);
  return value;
#else
  float lanes[kLanes];
  store(lanes, value);
  lanes[lane] = -std::numeric_limits<float>::infinity();
  return load(lanes);
#endif
}

}  // namespace
