// The deciding distance and the normalization as csrc/README.md writes them: by brute force.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace reference {

// a * b + c, rounded once; x86-64 without FMA (the baseline) rounds the product too.
template <typename T>
T fused(T a, T b, T c, bool once) {
  if (once) return std::fma(a, b, c);
  const volatile T product = a * b;  // volatile: not to be contracted
  return product + c;
}

template <typename T>
T sum_of_squares(const std::vector<T>& v, bool once) {
  const int64_t d = static_cast<int64_t>(v.size());
  T total[16] = {};
  if (d <= 8) {
    for (T value : v) total[0] = fused(value, value, total[0], once);
    return total[0];
  }
  for (int64_t begin = 0; begin < d; begin += 1024) {
    T lane[16] = {};
    for (int64_t j = begin; j < std::min(begin + 1024, d); ++j)
      lane[j % 16] = fused(v[j], v[j], lane[j % 16], once);
    for (int i = 0; i < 16; ++i) total[i] = begin ? total[i] + lane[i] : lane[i];
  }
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; ++i) total[i] = total[i] + total[i + half];
  return total[0];
}

// Of a row (d) to a centroid (d), squared.
template <typename T>
T distance(const T* x, const T* centroid, int64_t d, bool once) {
  std::vector<T> difference(d);
  for (int64_t j = 0; j < d; ++j) difference[j] = x[j] - centroid[j];
  return sum_of_squares(difference, once);
}

// Scales a row (d) to unit length; a row of zeros stays as it is.
template <typename T>
void normalize(T* x, int64_t d, bool once) {
  T most = 0;
  for (int64_t j = 0; j < d; ++j) most = std::max(most, std::fabs(x[j]));
  if (most == 0) return;
  constexpr int kMostExponent = std::numeric_limits<T>::max_exponent - 2;  // 126 or 1022
  const int exponent = std::clamp(std::ilogb(most), -kMostExponent, kMostExponent);
  std::vector<T> y(d);
  for (int64_t j = 0; j < d; ++j) y[j] = x[j] * std::ldexp(T(1), -exponent);
  const T norm = std::sqrt(sum_of_squares(y, once));
  for (int64_t j = 0; j < d; ++j) x[j] = y[j] / norm;
}

struct Nearest {
  int64_t label;
  double distance;
};

// The nearest of the centroids (k, d), ties to the lowest index.
template <typename T>
Nearest nearest(const T* x, const T* centroids, int64_t k, int64_t d, bool once) {
  Nearest found = {0, std::numeric_limits<double>::infinity()};
  for (int64_t c = 0; c < k; ++c) {
    const double to = distance(x, centroids + c * d, d, once);
    if (to < found.distance) found = {c, to};
  }
  return found;
}

}  // namespace reference
