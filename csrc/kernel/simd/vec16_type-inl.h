// The type Sixteen<T>: sixteen numbers that are computed with together, whatever the width of
// registers. The deciding distance is written in sixteen lanes on every processor, so that its bits
// do not depend on how many registers they take:
//
//   lane          0 1 2 3   4 5 6 7   8 9 10 11   12 13 14 15
//   baseline      part[0]   part[1]   part[2]     part[3]         float; double: 8 parts of 2
//   AVX2          part[0]             part[1]                     double: 4 parts of 4
//   AVX-512       part[0]                                         double: 2 parts of 8
#pragma once

#include "kernel/limits.h"
#include "kernel/simd/fused-inl.h"

namespace km::KM_TARGET {
namespace {

// T: float, double, int32_t or uint32_t.
template <typename T>
struct Sixteen {
  typedef T Vector __attribute__((vector_size(KM_VECTOR_BYTES)));
  // The same at any address, and of any type that is stored there.
  typedef T InMemory __attribute__((vector_size(KM_VECTOR_BYTES), aligned(sizeof(T)), may_alias));
  static constexpr int kWidth = KM_VECTOR_BYTES / sizeof(T);  // lanes of a register
  static constexpr int kParts = kLanes / kWidth;              // registers
  Vector part[kParts];  // lane i is part[i / kWidth][i % kWidth]
};

// The sixteen numbers from an address on, which need not be aligned. (Register by register: a copy
// of the whole struct would go through memory.)
template <typename T>
inline Sixteen<T> load(const T* from) {
  Sixteen<T> value;
  for (int v = 0; v < Sixteen<T>::kParts; ++v)
    value.part[v] =
        *reinterpret_cast<const typename Sixteen<T>::InMemory*>(from + v * Sixteen<T>::kWidth);
  return value;
}

// A number in every lane; -0 becomes 0.
template <typename T>
inline Sixteen<T> broadcast(T with) {
  Sixteen<T> value;
  for (int v = 0; v < Sixteen<T>::kParts; ++v) value.part[v] = typename Sixteen<T>::Vector{} + with;
  return value;
}

// Writes the sixteen numbers, lane 0 first, to an address that need not be aligned.
template <typename T>
inline void store(T* to, const Sixteen<T>& value) {
  for (int v = 0; v < Sixteen<T>::kParts; ++v)
    *reinterpret_cast<typename Sixteen<T>::InMemory*>(to + v * Sixteen<T>::kWidth) = value.part[v];
}

}  // namespace
}  // namespace km::KM_TARGET
