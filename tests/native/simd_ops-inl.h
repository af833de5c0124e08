// Checks of every operation of csrc/kernel/simd/, compiled in the region of an instruction set in
// place of the kernels (KM_LOOPS). Exact operations are compared bit by bit with a plain loop,
// approximate ones by what they promise.
#pragma once

#include "simd_vec16-inl.h"

namespace km::KM_TARGET {
namespace {

template <typename T>
void check_scalars(Report report, Random& random) {
  const bool is_float = sizeof(T) == 4;
  report("kInfinityOf",
         bits_in(kInfinityOf<T>) == IntOf<T>(is_float ? 0x7f800000 : int64_t{0x7ff0000000000000}));
  report("kNanOf", is_nan(kNanOf<T>));
  report("kEpsilonOf", kEpsilonOf<T> == T(is_float ? 0x1p-23 : 0x1p-52));
  report("kLeastNormalOf", kLeastNormalOf<T> == T(is_float ? 0x1p-126 : 0x1p-1022));
  for (int round = 0; round < kRounds * kLanes; ++round) {
    const T a = number<T>(random), b = number<T>(random);
    report("least_of", same(least_of(a, b), a < b ? a : b));
    report("larger_of", same(larger_of(a, b), b > a ? b : a));
    report("magnitude", is_nan(a) ? is_nan(magnitude(a)) : magnitude(a) == (a < 0 ? -a : a));
    const T whole = T(random.bits() % 2048);
    report("square_root", same(square_root(whole * whole), whole));
  }
  report("square_root", is_nan(square_root(T(-1))) && same(square_root(T(2)), T(M_SQRT2)));
  const T one = 1 + kEpsilonOf<T>;  // whose square has a digit that rounding takes
  report("fused", same(fused(one, one, -one * one), KM_FMA ? kEpsilonOf<T> * kEpsilonOf<T> : T(0)));
}

// Vectors of one register of T against the same operation on numbers.
template <typename T, typename Vector>
void check_vectors(Report report, Random& random) {
  constexpr int kWidth = Lanes<T>::kWidth;
  using Int = typename Lanes<T>::Mask;
  for (int round = 0; round < kRounds; ++round) {
    Vector a, b, c;
    for (int i = 0; i < kWidth; ++i) {
      a[i] = number<T>(random);
      b[i] = number<T>(random);
      c[i] = number<T>(random);
    }
    const Vector sum = fused(a, b, c), root = square_root(a), size = magnitude(a);
    const Vector larger = larger_of(a, b), least = magnitude(c), scale = scale_of<T, Int>(least);
    for (int i = 0; i < kWidth; ++i) {
      report("fused vectors", same(T(sum[i]), fused(T(a[i]), T(b[i]), T(c[i]))));
      report("square_root of vectors", same(T(root[i]), square_root(T(a[i]))));
      report("magnitude vectors", size[i] == magnitude(T(a[i])) || is_nan(T(a[i])));
      report("larger_of vectors", same(T(larger[i]), larger_of(T(a[i]), T(b[i]))));
      const T most = magnitude(number<T>(random, false)) + T(0);
      const T of_number = scale_of<T, IntOf<T>>(most), scaled = most * of_number;
      const T greatest = sizeof(T) == 4 ? T(0x1p126) : T(0x1p1022);
      const T expected_least = 1 / greatest;
      report("scale_of", most < kLeastNormalOf<T>    ? of_number == greatest
                         : most * expected_least < 2 ? scaled >= 1 && scaled < 2
                                                     : of_number == expected_least);
      const T of_lane = is_nan(T(least[i])) ? T(scale[i]) : scale_of<T, IntOf<T>>(T(least[i] + 0));
      report("scale_of vectors", same(T(scale[i]), of_lane));
    }
  }
  for (unsigned bits = 0; bits < 1u << kWidth; ++bits) {
    Int mask;
    for (int i = 0; i < kWidth; ++i) mask[i] = -IntOf<T>(bits >> i & 1);
    report("lane_bits", lane_bits<T>(mask) == bits);
  }
  T numbers[kWidth + 1];
  for (T& value : numbers) value = number<T>(random);
  const Vector loaded = vector_at(numbers + 1);
  for (int i = 0; i < kWidth; ++i) report("vector_at", same(T(loaded[i]), numbers[i + 1]));
}

// A lower bound in steps: never above the exact one but for kFuzz, and one step below it at most.
bool is_bound(int steps, float square, float per_step, float more) {
  const double size = square > 1e-37f ? double(square) : 1e-37;
  const double exact = __builtin_sqrt(size) * double(per_step) + double(more);
  const double most = exact + 2e-5, least = exact - 1;
  return steps <= int(most > 0 ? most < 255 ? most : 255 : 0) &&
         steps >= int(least > 0 ? least < 255 ? least : 254 : 0);
}

void check_steps(Report report, Random& random) {
  for (int round = 0; round < 20 * kRounds; ++round) {
    float square[kLanes], more[kLanes];
    const float per_step = float(__builtin_exp2(random.between(-30, 30)));
    for (int i = 0; i < kLanes; ++i) {
      const double length = random.between(0, round % 2 ? 300 : 990);
      square[i] = float(length / double(per_step)) * float(length / double(per_step));
      if (random.bits() % 8 == 0) square[i] = random.bits() % 2 ? 0.0f : kNanOf<float>;
      more[i] = float(random.between(-length, 260 - length));
      if (random.bits() % 4 == 0) more[i] = float(int(more[i]));
    }
    const Bytes steps = to_steps(load(square), per_step, load(more));
    uint8_t bounds[kLanes], before[kLanes];
    for (int i = 0; i < kLanes; ++i) before[i] = bounds[i] = uint8_t(random.bits());
    lower_to_steps(bounds, load(square), per_step, load(more));
    for (int i = 0; i < kLanes; ++i) {
      report("to_steps", is_bound(steps[i], square[i], per_step, more[i]));
      report("lower_to_steps", bounds[i] == (steps[i] < before[i] ? steps[i] : before[i]));
    }
  }
  const Bytes far = to_steps(broadcast(1e36f), 1.0f, broadcast(-1000.0f));
  const Bytes none = to_steps(broadcast(1.0f), 1.0f, broadcast(-kInfinityOf<float>));
  const Bytes unknown = to_steps(broadcast(1.0f), 1.0f, broadcast(kNanOf<float>));
  for (int i = 0; i < kLanes; ++i)
    report("to_steps at the ends", far[i] == 255 && none[i] == 0 && unknown[i] == 0);
}

void check_bytes(Report report, Random& random) {
  for (int round = 0; round < 4 * 256; ++round) {
    uint8_t before[64], bytes[64], limit[64];
    for (uint8_t& byte : before) byte = uint8_t(random.bits());
    const uint8_t number = uint8_t(round);
    std::memcpy(bytes, before, 64);
    subtract_saturated(bytes, number);
    for (int i = 0; i < 64; ++i)
      report("subtract_saturated", bytes[i] == (before[i] > number ? before[i] - number : 0));
    const uint64_t one = uint64_t{1} << round % 64;
    const uint64_t masks[] = {random.long_bits(), one, ~one, 0, ~uint64_t{0}};
    for (const uint64_t which : masks) {
      std::memcpy(bytes, before, 64);
      set_bytes(bytes, which);
      for (int i = 0; i < 64; ++i)
        report("set_bytes", bytes[i] == (which >> i & 1 ? 255 : before[i]));
    }
    uint64_t expected = 0;
    for (int i = 0; i < 64; ++i) {  // the sum is at most 255, and often near the byte
      const int most = 255 - number, near = before[i] - number + int(random.bits() % 3) - 1;
      const int any = int(random.bits() % unsigned(most + 1));
      limit[i] = uint8_t(random.bits() % 2 && near >= 0 && near <= most ? near : any);
      expected |= uint64_t(before[i] < limit[i] + number) << i;
    }
    report("lanes_below bytes", lanes_below(before, limit, number) == expected);
  }
}

void run(Report report) {
  Random random;
  check_scalars<float>(report, random);
  check_scalars<double>(report, random);
  check_vectors<float, FloatVector>(report, random);
  check_vectors<double, DoubleVector>(report, random);
  check_memory<float>(report, random);
  check_memory<double>(report, random);
  check_sums<float>(report, random);
  check_sums<double>(report, random);
  check_reductions<float>(report, random);
  check_reductions<double>(report, random);
  check_floats(report, random);
  check_masks(report, random);
  check_integers(report, random);
  check_transpose<float>(report, random);
  check_transpose<int32_t>(report, random);
  check_gather(report, random);
  check_steps(report, random);
  check_bytes(report, random);
}

}  // namespace

extern const Checks checks;
const Checks checks = {run};

}  // namespace km::KM_TARGET
