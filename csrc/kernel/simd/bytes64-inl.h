// Lower bounds of a byte each: a distance in steps, rounded down, where a step is a length that
// host/ chooses for a workspace. A cache line of 64 bytes belongs to the 64 rows of a block
// (kBlock) and one group of centroids; one operation of AVX-512, or two of AVX2, works on the line.
//
//   row of the block    0   1   2   ..   63
//   group g            17  32  12   ..    5     steps: any centroid of g is at least so far away
//
// 255 is "at least 255 steps", 0 says nothing. A mask has bit i for row i.
#pragma once

#include "kernel/simd/vec16-inl.h"

namespace km::KM_TARGET {
namespace {

// A byte for each of sixteen lanes.
typedef uint8_t Bytes __attribute__((vector_size(kLanes)));

// √square · per_step + more, rounded down and kept within 0 .. 255: a lower bound in steps.
// square (16): squared distances, finite, those below 1e-37 taken for 1e-37, or NaN, which counts
// as 0; per_step: steps of a unit of length, positive; more (16): steps, of either sign. The
// approximate root of the processor is lowered by as much as it may be too large, so that the
// result is never above the exact one, but for the rounding of the sum, 2e-5 steps, which kFuzz
// covers; as long as √square · per_step is below 1,000, it is at most one step lower.
inline Bytes to_steps(const Sixteen<float>& square, float per_step, const Sixteen<float>& more) {
#if KM_AVX512
  const __m512 positive = _mm512_max_ps(square.part[0], _mm512_set1_ps(1e-37f));
  // The reciprocal root is wrong by 2^-14 = 6.1e-5 at most, relatively (Intel's manual).
  const __m512 root = positive * _mm512_rsqrt14_ps(positive);
  const __m512 steps = root * (per_step * (1 - 7e-5f)) + more.part[0];
  const __m512i whole = _mm512_cvttps_epi32(
      _mm512_min_ps(_mm512_max_ps(steps, _mm512_setzero_ps()), _mm512_set1_ps(255)));
  return Bytes(_mm512_cvtepi32_epi8(whole));
#elif KM_AVX2
  __m256i whole[2];
  for (int v = 0; v < 2; ++v) {
    const __m256 positive = _mm256_max_ps(square.part[v], _mm256_set1_ps(1e-37f));
    // The reciprocal root is wrong by 1.5 · 2^-12 = 3.7e-4 at most, relatively (Intel's manual).
    const __m256 root = positive * _mm256_rsqrt_ps(positive);
    const __m256 steps = root * (per_step * (1 - 4e-4f)) + more.part[v];
    whole[v] = _mm256_cvttps_epi32(
        _mm256_min_ps(_mm256_max_ps(steps, _mm256_setzero_ps()), _mm256_set1_ps(255)));
  }
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(whole[0], whole[1]), 0xd8);
  return Bytes(_mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
#else
  float squares[kLanes], terms[kLanes];
  store(squares, square);
  store(terms, more);
  Bytes bytes;
  for (int i = 0; i < kLanes; ++i) {
    const float root = square_root(squares[i] > 0 ? squares[i] : 0);
    const float steps = root * (per_step * (1 - 2e-6f)) + terms[i];  // four roundings of 6e-8
    bytes[i] = static_cast<uint8_t>(steps > 0 ? (steps < 255 ? steps : 255) : 0);
  }
  return bytes;
#endif
}

// bounds (16) = min(bounds, to_steps(..)): the bound of a group is that of its nearest centroid,
// and centroids come one after the other.
inline void lower_to_steps(uint8_t* bounds, const Sixteen<float>& square, float per_step,
                           const Sixteen<float>& more) {
  const Bytes steps = to_steps(square, per_step, more);
  Bytes before;
  std::memcpy(&before, bounds, sizeof(before));
  const Bytes lowest = steps < before ? steps : before;
  std::memcpy(bounds, &lowest, sizeof(lowest));
}

// bytes (64) = max(bytes - number, 0): when the base of the bounds of a block grows (a rebase),
// each bound loses as many steps, and a bound that has no more says nothing.
inline void subtract_saturated(uint8_t* bytes, uint8_t number) {
#if KM_AVX512
  _mm512_storeu_si512(bytes,
                      _mm512_subs_epu8(_mm512_loadu_si512(bytes), _mm512_set1_epi8(char(number))));
#elif KM_AVX2
  for (int half = 0; half < 2; ++half) {
    __m256i* const at = reinterpret_cast<__m256i*>(bytes + half * 32);
    _mm256_storeu_si256(at,
                        _mm256_subs_epu8(_mm256_loadu_si256(at), _mm256_set1_epi8(char(number))));
  }
#else
  for (int i = 0; i < 64; ++i) bytes[i] = bytes[i] > number ? bytes[i] - number : 0;
#endif
}

// bytes (64): those whose bit is set become 255, from where the measured centroids of a group lower
// them. AVX2 has no masks: the 32 bits are copied to all bytes, byte b of the mask to the eight
// lanes that its bits stand for, and each lane tests its own bit.
inline void set_bytes(uint8_t* bytes, uint64_t which) {
#if KM_AVX512
  _mm512_mask_storeu_epi8(bytes, which, _mm512_set1_epi8(char(255)));
#elif KM_AVX2
  const __m256i byte_of =
      _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i bits = _mm256_set1_epi64x(int64_t(0x8040201008040201));
  for (int half = 0; half < 2; ++half) {
    __m256i* const at = reinterpret_cast<__m256i*>(bytes + half * 32);
    const __m256i spread =
        _mm256_shuffle_epi8(_mm256_set1_epi32(int(which >> (half * 32))), byte_of);
    const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bits), bits);
    _mm256_storeu_si256(at, _mm256_or_si256(_mm256_loadu_si256(at), set));
  }
#else
  for (; which; which &= which - 1) bytes[__builtin_ctzll(which)] = 255;
#endif
}

// The mask of bytes (64) that are below limit (64) + more, a sum of at most 255. Of the lower
// bounds of one group, with limit the upper bound of each row and more the drift of the group: rows
// in the mask have l(x, g) - drift < u(x), so that the group may hold their nearest centroid.
inline uint64_t lanes_below(const uint8_t* bytes, const uint8_t* limit, uint8_t more) {
  uint64_t mask = 0;
#if KM_AVX512
  const __m512i limits = _mm512_add_epi8(_mm512_loadu_si512(limit), _mm512_set1_epi8(char(more)));
  mask = _mm512_cmplt_epu8_mask(_mm512_loadu_si512(bytes), limits);
#elif KM_AVX2
  for (int half = 0; half < 2; ++half) {
    const __m256i limits =
        _mm256_add_epi8(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(limit + half * 32)),
                        _mm256_set1_epi8(char(more)));
    const __m256i values = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + half * 32));
    const __m256i not_below = _mm256_cmpeq_epi8(_mm256_max_epu8(values, limits), values);
    mask |= uint64_t(~unsigned(_mm256_movemask_epi8(not_below))) << (half * 32);
  }
#else
  for (int i = 0; i < 64; ++i) mask |= uint64_t(bytes[i] < limit[i] + more) << i;
#endif
  return mask;
}

}  // namespace
}  // namespace km::KM_TARGET
