// The operations of the deciding distance (csrc/README.md): each is rounded once, whatever
// compilers make of a * b + c (-ffp-contract=fast lets them fuse it, or not).
#pragma once

#include "kernel/simd/scalar-inl.h"

namespace km::KM_TARGET {
namespace {

// A register of the instruction set, KM_VECTOR_BYTES (16, 32 or 64) wide. GCC and clang compute
// with such types lane by lane: +, *, <, ?:.
typedef float FloatVector __attribute__((vector_size(KM_VECTOR_BYTES)));
typedef double DoubleVector __attribute__((vector_size(KM_VECTOR_BYTES)));

// a · b + c, rounded once. Processors without FMA (baseline on x86-64) round twice, after the
// product too: the one exception to "the same bits everywhere", which csrc/README.md names.
#if KM_FMA
inline float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline double fused(double a, double b, double c) { return __builtin_fma(a, b, c); }
#else
inline float fused(float a, float b, float c) { return a * b + c; }
inline double fused(double a, double b, double c) { return a * b + c; }
#endif

// The same lane by lane.
inline FloatVector fused(const FloatVector& a, const FloatVector& b, const FloatVector& c) {
#if KM_AVX512
  return _mm512_fmadd_ps(a, b, c);
#elif KM_AVX2
  return _mm256_fmadd_ps(a, b, c);
#elif KM_NEON
  return FloatVector(vfmaq_f32(float32x4_t(c), float32x4_t(a), float32x4_t(b)));
#elif !KM_FMA
  return a * b + c;
#else
  FloatVector sum;
  for (int i = 0; i < KM_VECTOR_BYTES / 4; ++i) sum[i] = fused(a[i], b[i], c[i]);
  return sum;
#endif
}

inline DoubleVector fused(const DoubleVector& a, const DoubleVector& b, const DoubleVector& c) {
#if KM_AVX512
  return _mm512_fmadd_pd(a, b, c);
#elif KM_AVX2
  return _mm256_fmadd_pd(a, b, c);
#elif KM_NEON
  return DoubleVector(vfmaq_f64(float64x2_t(c), float64x2_t(a), float64x2_t(b)));
#elif !KM_FMA
  return a * b + c;
#else
  DoubleVector sum;
  for (int i = 0; i < KM_VECTOR_BYTES / 8; ++i) sum[i] = fused(a[i], b[i], c[i]);
  return sum;
#endif
}

// √value lane by lane, rounded once: the norm of rows in the lanes.
inline FloatVector square_root(FloatVector value) {
#if KM_AVX512
  return _mm512_sqrt_ps(value);
#elif KM_AVX2
  return _mm256_sqrt_ps(value);
#else
  for (int i = 0; i < KM_VECTOR_BYTES / 4; ++i) value[i] = square_root(value[i]);
  return value;
#endif
}

inline DoubleVector square_root(DoubleVector value) {
#if KM_AVX512
  return _mm512_sqrt_pd(value);
#elif KM_AVX2
  return _mm256_sqrt_pd(value);
#else
  for (int i = 0; i < KM_VECTOR_BYTES / 8; ++i) value[i] = square_root(value[i]);
  return value;
#endif
}

// The power of two that a row is multiplied by before its features are squared, so that no square
// overflows and none that counts underflows; largest = max |x_j|, at least 0 and finite. With
// E the exponent of largest as it is stored (0 to 254 or 2046), the scale has the stored exponent
// 254 - E (or 2046 - E), which brings largest to [1, 2) if it is normal; E is kept within 1 .. 253,
// where the scale itself is normal. Infinity and NaN count as the largest exponent.
// T: float or double; V: T, or a vector of T; Int: the integers of the same size as V.
template <typename T, typename Int, typename V>
inline V scale_of(const V& largest) {
  static_assert(sizeof(Int) == sizeof(V));
  constexpr int kTwice = 2 * kBiasOf<T>;
  Int bits;
  std::memcpy(&bits, &largest, sizeof(bits));
  const Int least = Int{} + 1, most = Int{} + (kTwice - 1);
  Int exponent = bits >> kDigitsOf<T>;
  exponent = exponent > least ? exponent : least;
  exponent = exponent < most ? exponent : most;
  bits = (Int{} + kTwice - exponent) << kDigitsOf<T>;
  V scale;
  std::memcpy(&scale, &bits, sizeof(scale));
  return scale;
}

}  // namespace
}  // namespace km::KM_TARGET
