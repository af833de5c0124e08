// Whole numbers in sixteen lanes: the coordinates that scores are computed from. A lane holds two
// of 16 bits, because processors multiply and add two such pairs in one instruction:
//
//   bits     31 .. 16            15 .. 0
//   lane     feature 2 j + 1     feature 2 j
#pragma once

#include "kernel/simd/vec16_type-inl.h"

namespace km::KM_TARGET {
namespace {

// sum += low(a) · low(b) + high(a) · high(b), lane by lane, exact but for the sum's 32 bits, which
// wrap. Halves are signed: -32,768 to 32,767 (coordinates stay within ±kWhole = 32,000).
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
#elif KM_SSE2
    const __m128i products = _mm_madd_epi16(__m128i(a.part[v]), __m128i(b.part[v]));
    sum.part[v] = Vector(_mm_add_epi32(__m128i(sum.part[v]), products));
#else
    using Bits = Sixteen<uint32_t>::Vector;  // unsigned sums may wrap, signed ones may not
    const Vector low_a = Vector(Bits(a.part[v]) << 16) >> 16, high_a = a.part[v] >> 16;
    const Vector low_b = Vector(Bits(b.part[v]) << 16) >> 16, high_b = b.part[v] >> 16;
    sum.part[v] = Vector(Bits(sum.part[v]) + Bits(low_a * low_b) + Bits(high_a * high_b));
#endif
  }
}

// The nearest whole numbers, ties to even; |value| below 2^22. Adding 1.5 · 2^23, where floats are
// whole, rounds as floats do, and leaves the result in the low bits.
inline Sixteen<int32_t> rounded(const Sixteen<float>& value) {
  constexpr float kWholeOnly = 3 << 22;
  Sixteen<int32_t> whole;
  for (int v = 0; v < Sixteen<float>::kParts; ++v) {
    using Bits = Sixteen<uint32_t>::Vector;
    const Sixteen<float>::Vector zero = Sixteen<float>::Vector{} + kWholeOnly;
    const Sixteen<float>::Vector shifted = value.part[v] + kWholeOnly;
    whole.part[v] = Sixteen<int32_t>::Vector(Bits(shifted) - Bits(zero));
  }
  return whole;
}

// The same numbers as floats; beyond 2^24 rounded to nearest.
inline Sixteen<float> as_floats(const Sixteen<int32_t>& value) {
  Sixteen<float> floats;
  for (int v = 0; v < Sixteen<float>::kParts; ++v)
    floats.part[v] = __builtin_convertvector(value.part[v], Sixteen<float>::Vector);
  return floats;
}

// Lanes of two numbers of 16 bits each: the low 16 bits of low and of high.
inline Sixteen<int32_t> pairs_of(const Sixteen<int32_t>& low, const Sixteen<int32_t>& high) {
  Sixteen<int32_t> both;
  for (int v = 0; v < Sixteen<int32_t>::kParts; ++v)
    both.part[v] = (low.part[v] & 0xffff) |
                   Sixteen<int32_t>::Vector(Sixteen<uint32_t>::Vector(high.part[v]) << 16);
  return both;
}

}  // namespace
}  // namespace km::KM_TARGET
