// Checks of the operations on sixteen numbers.
#pragma once

#include "simd_values-inl.h"

namespace km::KM_TARGET {
namespace {

template <typename T>
void check_memory(Report report, Random& random) {
  for (int round = 0; round < kRounds; ++round) {
    T from[kLanes + 3], to[kLanes + 3] = {};
    for (T& value : from) value = number<T>(random);
    const int offset = round % 4;  // addresses that are not aligned
    const Sixteen<T> all = load(from + offset % 3);
    store(to + offset % 3, all);
    bool good = true;
    for (int i = 0; i < kLanes + 3; ++i) {
      const bool inside = i >= offset % 3 && i < offset % 3 + kLanes;
      good &= inside ? same(to[i], from[i]) : same(to[i], T(0));
    }
    report("load, store", good);
    report("broadcast", lanes_are(broadcast(from[0]), [&](int) { return from[0] + T(0); }));
  }
}

template <typename T>
void check_sums(Report report, Random& random) {
  for (int round = 0; round < kRounds; ++round) {
    const Input<T> a(random), b(random), c(random);
    const T factor = number<T>(random);
    auto twice = [](T x, T y, T z) { return rounded_twice(x, y, z); };
    Sixteen<T> sum = c.all;
    add(sum, a.all);
    report("add", lanes_are(sum, [&](int i) { return twice(a.lane[i], 1, c.lane[i]); }));
    sum = c.all;
    add_square_of_difference(sum, a.all, b.all);
    report("add_square_of_difference", lanes_are(sum, [&](int i) {
             volatile T difference = a.lane[i] - b.lane[i];
             return fused(T(difference), T(difference), c.lane[i]);
           }));
    sum = c.all;
    add_square(sum, a.all);
    report("add_square",
           lanes_are(sum, [&](int i) { return fused(a.lane[i], a.lane[i], c.lane[i]); }));
    sum = c.all;
    add_product(sum, a.all, factor);
    T lanes[kLanes];
    store(lanes, sum);
    for (int i = 0; i < kLanes; ++i)
      report("add_product", rounded_once_or_twice(lanes[i], a.lane[i], factor, c.lane[i]));
    report("times a number",
           lanes_are(times(a.all, factor), [&](int i) { return a.lane[i] * factor; }));
    report("divided", lanes_are(divided(a.all, factor), [&](int i) {
             volatile T quotient = a.lane[i] / factor;
             return T(quotient);
           }));
  }
}

template <typename T>
void check_reductions(Report report, Random& random) {
  for (int round = 0; round < kRounds; ++round) {
    const Input<T> a(random), b(random, false);
    T lanes[kLanes];
    store(lanes, a.all);
    for (int half = 8; half; half /= 2)
      for (int i = 0; i < half; ++i) lanes[i] = rounded_twice(lanes[i], T(1), lanes[i + half]);
    report("sum_of_lanes", same(sum_of_lanes(a.all), lanes[0]));
    T most = b.lane[0];
    for (const T value : b.lane) most = value > most ? value : most;
    report("largest_lane", largest_lane(b.all) == most);
    Sixteen<T> raised = b.all;
    raise_to_magnitude(raised, a.all);
    store(lanes, raised);
    for (int i = 0; i < kLanes; ++i) {
      const T size = a.lane[i] < 0 ? -a.lane[i] : a.lane[i];
      report("raise_to_magnitude", lanes[i] == (size > b.lane[i] ? size : b.lane[i]));
    }
  }
}

void check_floats(Report report, Random& random) {
  for (int round = 0; round < kRounds; ++round) {
    const Input<float> a(random), b(random), c(random);
    const Input<double> wide(random);
    const float factor = number<float>(random), floor = number<float>(random, false) + 0.0f;
    auto each = [&](const char* name, const Sixteen<float>& value, auto expected) {
      report(name, lanes_are(value, [&](int i) -> float { return expected(i); }));
    };
    each("minus", minus(a.all, b.all), [&](int i) { return a.lane[i] - b.lane[i]; });
    each("minus of doubles", minus(wide.all, b.all),
         [&](int i) { return float(wide.lane[i] - double(b.lane[i])); });
    each("times", times(a.all, b.all), [&](int i) { return a.lane[i] * b.lane[i]; });
    each("reciprocal", reciprocal(a.all), [&](int i) { return 1 / a.lane[i]; });
    each("square_root", square_root(a.all), [&](int i) { return square_root(a.lane[i]); });
    each("raised_to", raised_to(a.all, floor),
         [&](int i) { return a.lane[i] > floor ? a.lane[i] : floor; });
    Sixteen<float> sum = c.all;
    add_products(sum, a.all, b.all);
    float sums[kLanes], scaled[kLanes];
    store(sums, sum);
    store(scaled, times_plus(a.all, factor, c.all));
    for (int i = 0; i < kLanes; ++i) {
      report("add_products", rounded_once_or_twice(sums[i], a.lane[i], b.lane[i], c.lane[i]));
      report("times_plus", rounded_once_or_twice(scaled[i], a.lane[i], factor, c.lane[i]));
    }
  }
}

void check_masks(Report report, Random& random) {
  for (int round = 0; round < kRounds; ++round) {
    const Input<float> a(random), limit(random), top(random, false);
    const float bound = number<float>(random);
    report("at_least a number",
           at_least(a.all, bound) == mask_of([&](int i) { return a.lane[i] >= bound; }));
    const unsigned reached = mask_of([&](int i) { return a.lane[i] >= limit.lane[i]; });
    report("at_least", at_least(a.all, limit.all) == reached);
    report("lanes_below",
           lanes_below(a.lane, bound) == mask_of([&](int i) { return !(a.lane[i] >= bound); }));
    Sixteen<float> raised = top.all;
    report("raise_to_scores_below", raise_to_scores_below(raised, a.all, limit.all) == reached);
    report("raise_to_scores_below", lanes_are(raised, [&](int i) {
             const bool better = a.lane[i] < limit.lane[i] && a.lane[i] > top.lane[i];
             return better ? a.lane[i] : top.lane[i];
           }));
  }
  const Input<float> a(random);
  const float other = -7;
  for (unsigned which = 0; which < 1u << kLanes; ++which)
    report("keep_lanes", lanes_are(keep_lanes(which, a.all, other),
                                   [&](int i) { return which >> i & 1 ? a.lane[i] : other; }));
}

// Coordinates: pairs of 16 bits, of all sizes and at the ends of their range.
Sixteen<int32_t> random_pairs(Random& random, int32_t (&lane)[kLanes]) {
  for (int32_t& value : lane) {
    const uint32_t ends[] = {0, 1, 0xffff, 32000, uint32_t(-32000) & 0xffff, 0x7fff, 0x8001};
    const uint32_t low = random.bits() & 1 ? random.bits() & 0xffff : ends[random.bits() % 7];
    const uint32_t high = random.bits() & 1 ? random.bits() & 0xffff : ends[random.bits() % 7];
    value = int32_t(low | high << 16);
  }
  return load(lane);
}
int64_t low_of(int32_t pair) { return int16_t(uint16_t(uint32_t(pair) & 0xffff)); }
int64_t high_of(int32_t pair) { return int16_t(uint16_t(uint32_t(pair) >> 16)); }

void check_integers(Report report, Random& random) {
  for (int round = 0; round < kRounds; ++round) {
    int32_t a[kLanes], b[kLanes], start[kLanes], sums[4];
    const Sixteen<int32_t> all_a = random_pairs(random, a), all_b = random_pairs(random, b);
    Sixteen<int32_t> sum = random_pairs(random, start);
    report("pairs_of", lanes_are(pairs_of(all_a, all_b), [&](int i) {
             return int32_t((uint32_t(a[i]) & 0xffff) | uint32_t(b[i]) << 16);
           }));
    report("as_floats", lanes_are(as_floats(all_a), [&](int i) { return float(a[i]); }));
    add_products_of_pairs(sum, all_a, all_b);
    report("add_products_of_pairs", lanes_are(sum, [&](int i) {
             return int32_t(
                 uint32_t(start[i] + low_of(a[i]) * low_of(b[i]) + high_of(a[i]) * high_of(b[i])));
           }));
    const Input<float> whole(random, -4194303, 4194303), half(random, -8, 8);
    report("rounded", lanes_are(rounded(whole.all),
                                [&](int i) { return int32_t(__builtin_rintf(whole.lane[i])); }));
    const Sixteen<float> halves = times(as_floats(rounded(half.all)), 0.5f);  // ties
    float tie[kLanes];
    store(tie, halves);
    report("rounded",
           lanes_are(rounded(halves), [&](int i) { return int32_t(__builtin_rintf(tie[i])); }));
    Sixteen<int32_t> four[4];
    int32_t expected[4] = {};
    for (int n = 0; n < 4; ++n) {
      int32_t lanes[kLanes];
      for (int32_t& lane : lanes) {
        lane = int32_t(random.bits()) >> 5;
        expected[n] += lane;
      }
      four[n] = load(lanes);
    }
    sums_of_lanes(four, sums);
    for (int n = 0; n < 4; ++n) report("sums_of_lanes", sums[n] == expected[n]);
  }
}

template <typename T>
void check_transpose(Report report, Random& random) {
  for (int round = 0; round < 20; ++round) {
    T from[kLanes][kLanes + 1], to[kLanes * (kLanes + 5)] = {};
    const T* rows[kLanes];
    for (int r = 0; r < kLanes; ++r) {
      rows[r] = from[r] + round % 2;
      for (T& value : from[r]) value = T(random.bits() >> 8);
    }
    const int step = kLanes + round % 6;
    transpose(rows, to, step);
    bool good = true;
    for (int j = 0; j < kLanes; ++j)
      for (int r = 0; r < step && j * step + r < kLanes * kLanes; ++r)
        good &= to[j * step + r] == (r < kLanes ? rows[r][j] : T(0));
    report("transpose", good);
  }
}

void check_gather(Report report, Random& random) {
  float table[50][4];
  for (auto& line : table)
    for (float& value : line) value = number<float>(random);
  for (int round = 0; round < kRounds; ++round) {
    int32_t which[kLanes];
    for (int32_t& line : which) line = int32_t(random.bits() % 50);
    Sixteen<float> columns[4];
    gather(table, which, columns);
    for (int j = 0; j < 4; ++j)
      report("gather", lanes_are(columns[j], [&](int r) { return table[which[r]][j]; }));
  }
}

}  // namespace
}  // namespace km::KM_TARGET
