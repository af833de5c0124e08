// A vector of the instruction set: numbers of one feature of several rows.
#pragma once

#include "kernel/simd/fused-inl.h"

namespace km::KM_TARGET {
namespace {

constexpr int kVectors = 4;  // per block: with KM_CENTROIDS, the accumulators in registers

template <typename T>
struct Lanes {
  using Int = IntOf<T>;
  typedef T Vector __attribute__((vector_size(KM_VECTOR_BYTES)));
  typedef Int Mask __attribute__((vector_size(KM_VECTOR_BYTES)));
  typedef double Doubles __attribute__((vector_size(KM_VECTOR_BYTES / sizeof(T) * 8)));
  static constexpr int kWidth = KM_VECTOR_BYTES / sizeof(T);
  static constexpr int kRows = kWidth * kVectors;
};

// Which lanes are set, a bit each.
template <typename T>
inline unsigned bits_of(const typename Lanes<T>::Mask& mask) {
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

template <typename T>
inline typename Lanes<T>::Vector vector_at(const T* from) {
  typename Lanes<T>::Vector value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

}  // namespace
}  // namespace km::KM_TARGET
