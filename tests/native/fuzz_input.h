// Bytes of a fuzzer as decisions and numbers, and what is asserted.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <limits>
#include <vector>

// Ends the process where a promise is broken: a fuzzer and the driver of fuzz.cpp report the input.
#define PROMISE(condition)                                                                 \
  do {                                                                                     \
    if (!(condition)) {                                                                    \
      std::fprintf(stderr, "%s:%d: broken promise: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                        \
    }                                                                                      \
  } while (false)

namespace fuzz {

// Whether two numbers agree within a share of a scale; infinite ones do where they are equal.
inline bool close(double a, double b, double tolerance, double scale) {
  return a == b || std::fabs(a - b) <= tolerance * scale || (std::isnan(a) && std::isnan(b));
}

class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  // The next byte; zeros follow the last one.
  uint8_t byte() { return size_ ? --size_, *data_++ : 0; }
  bool coin() { return byte() & 1; }
  // An integer from low to high, both included.
  int64_t between(int64_t low, int64_t high) {
    const int64_t drawn = byte() | byte() << 8;
    return low + drawn % (high - low + 1);
  }
  template <typename T>
  T one_of(std::initializer_list<T> choices) {
    return choices.begin()[byte() % choices.size()];
  }

  // Pseudo-random numbers, which bytes only seed: data are longer than inputs should be.
  void seed() { state_ = state_ * 31 + byte() + 1; }
  // In [0, 1).
  double uniform() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<double>(state_ >> 11) * 0x1p-53;
  }
  int64_t below(int64_t n) { return static_cast<int64_t>(uniform() * static_cast<double>(n)); }

 private:
  const uint8_t* data_;
  size_t size_;
  uint64_t state_ = 1;
};

// Kinds of numbers (n) that rows and centroids have: the ones that go wrong are among them.
template <typename T>
std::vector<T> numbers(Input& input, int64_t n) {
  input.seed();
  const int kind = input.byte() % 10;
  const T scale = kind == 7   ? std::sqrt(std::numeric_limits<T>::max())  // squares overflow
                  : kind == 8 ? std::numeric_limits<T>::min()             // squares vanish
                              : T(1);
  std::vector<T> values(n);
  for (T& value : values) {
    value = T(input.uniform() - 0.5) * scale;
    if (kind == 1) value = T(input.below(3) - 1);                 // ties
    if (kind == 2) value = input.uniform() < 0.7 ? T(0) : value;  // zeros
    if (kind == 3) value = T(1000) + value * T(1e-3);             // far from the origin
    if (kind == 4) value = T(input.below(4)) + value * T(1e-2);   // clusters
    if (kind == 5) value = T(0.25);                               // all alike
    if (kind == 6 && input.uniform() < 0.02) value *= T(1e15);    // a few outliers
    if (kind == 9 && input.uniform() < 0.01)                      // a few that are none
      value = input.uniform() < 0.5 ? std::numeric_limits<T>::infinity()
                                    : std::numeric_limits<T>::quiet_NaN();
  }
  return values;
}

// Weights (n), of which a few are 0.
inline std::vector<double> weights(Input& input, int64_t n) {
  input.seed();
  std::vector<double> values(n);
  for (double& value : values) value = input.uniform() < 0.1 ? 0 : input.uniform() * 3;
  return values;
}

}  // namespace fuzz
