// Comparisons of sixteen numbers, and choices by them. A mask is a bit for each lane: bit i of an
// unsigned, 0 to 0xffff, for lane i.
#pragma once

#include "kernel/simd/vec16_type-inl.h"

namespace km::KM_TARGET {
namespace {

// The lanes that are at least a limit, a bit each; a lane that is NaN has no bit.
inline unsigned at_least(const Sixteen<float>& value, float limit) {
#if KM_AVX512
  return _mm512_cmp_ps_mask(value.part[0], _mm512_set1_ps(limit), _CMP_GE_OQ);
#elif KM_AVX2
  const __m256 all = _mm256_set1_ps(limit);
  return unsigned(_mm256_movemask_ps(_mm256_cmp_ps(value.part[0], all, _CMP_GE_OQ))) |
         unsigned(_mm256_movemask_ps(_mm256_cmp_ps(value.part[1], all, _CMP_GE_OQ))) << 8;
#else
  float lanes[kLanes];
  store(lanes, value);
  unsigned mask = 0;
  for (int i = 0; i < kLanes; ++i) mask |= unsigned(lanes[i] >= limit) << i;
  return mask;
#endif
}

// The lanes that are at least the same lane of limit, a bit each; no bit where either is NaN.
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

// Which of the sixteen numbers at an address are below a limit, or NaN, a bit each.
inline unsigned lanes_below(const float* numbers, float limit) {
  return ~at_least(load(numbers), limit) & 0xffffu;
}

// Raises top to the scores that are below their limit, lane by lane, for the best score among the
// centroids that did not pass; returns which lanes are at least their limit (candidates).
inline unsigned raise_to_scores_below(Sixteen<float>& top, const Sixteen<float>& score,
                                      const Sixteen<float>& limit) {
  for (int v = 0; v < Sixteen<float>::kParts; ++v) {
    const auto lower = score.part[v] < limit.part[v] ? score.part[v] : top.part[v];
    top.part[v] = lower > top.part[v] ? lower : top.part[v];
  }
  return at_least(score, limit);
}

// a in the lanes whose bit is set, another number in the others.
inline Sixteen<float> keep_lanes(unsigned which, const Sixteen<float>& a, float other) {
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

}  // namespace
}  // namespace km::KM_TARGET
