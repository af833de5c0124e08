// The operations of what decides (see README.md): each is rounded once, whatever compilers may do
// with a * b + c.
#pragma once

#include "kernel/simd/standard.h"

namespace km::KM_TARGET {
namespace {

// Numbers of a vector register.
typedef float FloatVector __attribute__((vector_size(KM_VECTOR_BYTES)));
typedef double DoubleVector __attribute__((vector_size(KM_VECTOR_BYTES)));

// a x b + c, rounded once; on processors that cannot do that, which README.md names, twice.
#if KM_FMA
inline float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline double fused(double a, double b, double c) { return __builtin_fma(a, b, c); }
#else
inline float fused(float a, float b, float c) { return a * b + c; }
inline double fused(double a, double b, double c) { return a * b + c; }
#endif

inline FloatVector fused(const FloatVector& a, const FloatVector& b, const FloatVector& c) {
#if KM_VECTOR_BYTES == 64
  return _mm512_fmadd_ps(a, b, c);
#elif KM_VECTOR_BYTES == 32
  return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
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
#if KM_VECTOR_BYTES == 64
  return _mm512_fmadd_pd(a, b, c);
#elif KM_VECTOR_BYTES == 32
  return _mm256_fmadd_pd(a, b, c);
#elif defined(__aarch64__)
  return DoubleVector(vfmaq_f64(float64x2_t(c), float64x2_t(a), float64x2_t(b)));
#elif !KM_FMA
  return a * b + c;
#else
  DoubleVector sum;
  for (int i = 0; i < KM_VECTOR_BYTES / 8; ++i) sum[i] = fused(a[i], b[i], c[i]);
  return sum;
#endif
}

inline FloatVector square_root(FloatVector value) {
#if KM_VECTOR_BYTES == 64
  return _mm512_maskz_sqrt_ps(0xffff, value);  // the plain one warns of what it leaves undefined
#elif KM_VECTOR_BYTES == 32
  return _mm256_sqrt_ps(value);
#else
  for (int i = 0; i < KM_VECTOR_BYTES / 4; ++i) value[i] = std::sqrt(value[i]);
  return value;
#endif
}

inline DoubleVector square_root(DoubleVector value) {
#if KM_VECTOR_BYTES == 64
  return _mm512_maskz_sqrt_pd(0xff, value);
#elif KM_VECTOR_BYTES == 32
  return _mm256_sqrt_pd(value);
#else
  for (int i = 0; i < KM_VECTOR_BYTES / 8; ++i) value[i] = std::sqrt(value[i]);
  return value;
#endif
}

// An integer of the size of T.
template <typename T>
using IntOf = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

template <typename V>
inline V size_of(const V& value) {
  return value > -value ? value : -value;
}

template <typename V>
inline V larger_of(const V& a, const V& b) {
  return b > a ? b : a;
}

// The power of two that numbers are scaled by before they are squared, the largest of them given;
// of T or of a vector V of T, with Int, integers of the same size.
template <typename T, typename Int, typename V>
inline V scale_of(const V& largest) {
  static_assert(sizeof(Int) == sizeof(V));
  constexpr int kDigits = std::numeric_limits<T>::digits - 1;
  constexpr int kTwice = 2 * (std::numeric_limits<T>::max_exponent - 1);
  Int bits;
  std::memcpy(&bits, &largest, sizeof(bits));
  const Int least = Int{} + 1, most = Int{} + (kTwice - 1);
  Int exponent = bits >> kDigits;
  exponent = exponent > least ? exponent : least;
  exponent = exponent < most ? exponent : most;
  bits = (Int{} + kTwice - exponent) << kDigits;
  V scale;
  std::memcpy(&scale, &bits, sizeof(scale));
  return scale;
}

}  // namespace
}  // namespace km::KM_TARGET
