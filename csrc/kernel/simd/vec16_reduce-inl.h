// One number of sixteen lanes: sums and the largest.
#pragma once

#include "kernel/simd/vec16_type-inl.h"

namespace km::KM_TARGET {
namespace {

// The sum of the lanes in the one order that every processor keeps: the upper half is added to the
// lower half, lanes i + 8 to i, then i + 4 to i, i + 2 to i and 1 to 0.
template <typename T>
inline T sum_of_lanes(const Sixteen<T>& value) {
  T lanes[kLanes];
  store(lanes, value);
  for (int half = kLanes / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}

// The largest lane; no lane is NaN. Of zeros of both signs, either.
template <typename T>
inline T largest_lane(const Sixteen<T>& value) {
  T lanes[kLanes];
  store(lanes, value);
  for (int half = kLanes / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] = larger_of(lanes[i], lanes[i + half]);
  return lanes[0];
}

// The same with registers, in the same order: with AVX-512 for floats and doubles, with AVX2 for
// floats.
#if KM_AVX512
inline float sum_of_lanes(const Sixteen<float>& value) {
  const __m512 all = value.part[0];
  const __m256 eight = _mm512_castps512_ps256(all) +
                       _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(all), 1));
  const __m128 four = _mm256_castps256_ps128(eight) + _mm256_extractf128_ps(eight, 1);
  const __m128 two = four + _mm_movehl_ps(four, four);
  return two[0] + two[1];
}
inline double sum_of_lanes(const Sixteen<double>& value) {
  const __m512d eight = value.part[0] + value.part[1];
  const __m256d four = _mm512_castpd512_pd256(eight) + _mm512_extractf64x4_pd(eight, 1);
  const __m128d two = _mm256_castpd256_pd128(four) + _mm256_extractf128_pd(four, 1);
  return two[0] + two[1];
}
inline float largest_lane(const Sixteen<float>& value) {
  return _mm512_reduce_max_ps(value.part[0]);
}
#elif KM_AVX2
inline float sum_of_lanes(const Sixteen<float>& value) {
  const __m256 eight = value.part[0] + value.part[1];
  const __m128 four = _mm256_castps256_ps128(eight) + _mm256_extractf128_ps(eight, 1);
  const __m128 two = four + _mm_movehl_ps(four, four);
  return two[0] + two[1];
}
inline float largest_lane(const Sixteen<float>& value) {
  const __m256 eight = _mm256_max_ps(value.part[0], value.part[1]);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return larger_of(two[0], two[1]);
}
#endif

// to (4): the sums of the lanes of four values; sums fit into 32 bits, so that their order does not
// matter. Four values at once share their shuffles: lanes are transposed 4 × 4 as they are added.
inline void sums_of_lanes(const Sixteen<int32_t> (&values)[4], int32_t* to) {
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
#if KM_AVX2
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

}  // namespace
}  // namespace km::KM_TARGET
