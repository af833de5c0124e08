// One register of the instruction set with a row in each lane: the form of the loops over few
// features (few/, seeding/), which hold a number of several rows, one feature at a time.
//
//            lane 0   lane 1   lane 2  ...          a block: kVectors such registers,
// register   row 0    row 1    row 2   ...          kRows rows in all
#pragma once

#include "kernel/simd/fused-inl.h"

namespace km::KM_TARGET {
namespace {

// Registers of a block. With KM_CENTROIDS centroids at once, the squared distances so far take
// kVectors · KM_CENTROIDS registers: 8 of 16, with AVX-512 16 of 32.
constexpr int kVectors = 4;

template <typename T>
struct Lanes {
  using Int = IntOf<T>;
  typedef T Vector __attribute__((vector_size(KM_VECTOR_BYTES)));
  typedef Int Mask __attribute__((vector_size(KM_VECTOR_BYTES)));  // of a comparison: 0 or -1
  // As many doubles as a Vector has lanes, in as many registers as they take: exact sums.
  typedef double Doubles __attribute__((vector_size(KM_VECTOR_BYTES / sizeof(T) * 8)));
  static constexpr int kWidth = KM_VECTOR_BYTES / sizeof(T);  // lanes: 2 to 16
  static constexpr int kRows = kWidth * kVectors;             // rows of a block
};

// Bit i says whether lane i of a mask is set; each lane is 0 or -1, as comparisons leave it.
template <typename T>
inline unsigned lane_bits(const typename Lanes<T>::Mask& mask) {
#if KM_AVX512
  if constexpr (sizeof(T) == 4)
    return _mm512_movepi32_mask(__m512i(mask));
  else
    return _mm512_movepi64_mask(__m512i(mask));
#elif KM_AVX2
  if constexpr (sizeof(T) == 4)
    return unsigned(_mm256_movemask_ps(__m256(mask)));
  else
    return unsigned(_mm256_movemask_pd(__m256d(mask)));
#else
  unsigned bits = 0;
  for (int i = 0; i < Lanes<T>::kWidth; ++i) bits |= unsigned(mask[i] & 1) << i;
  return bits;
#endif
}

// The kWidth numbers from an address on, which need not be aligned.
template <typename T>
inline typename Lanes<T>::Vector vector_at(const T* from) {
  typename Lanes<T>::Vector value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

}  // namespace
}  // namespace km::KM_TARGET
