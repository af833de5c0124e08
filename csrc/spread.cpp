// How far the features of all rows reach, and what they add up to.

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "guarded.h"
#include "parts.h"

namespace {

// Features of some rows: how far they reach, and their sums or those of squares about a center.
template <typename T>
struct Spread {
  explicit Spread(int64_t size)
      : low(size, std::numeric_limits<T>::infinity()),
        high(size, -std::numeric_limits<T>::infinity()),
        sums(size) {}

  // Rows one by one; those of weight 0 do not count in sums.
  void add(const km_rows& rows, const double* center, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T* row = static_cast<const T*>(rows.x) + i * rows.row_stride;
      const bool counts = !rows.weights || rows.weights[i] > 0;
      for (int64_t j = 0; j < rows.d; ++j) {
        const T value = row[j * rows.column_stride];
        const double apart = double(value) - (center ? center[j] : 0);
        low[j] = std::min(low[j], value);
        high[j] = std::max(high[j], value);
        // NaN shows all the same
        sums[j] += counts ? (center ? apart * apart : apart) : 0 * double(value);
      }
    }
  }

  // Of others that repeat these features.
  void add(const Spread& others) {
    for (size_t j = 0; j < others.sums.size(); ++j) {
      const size_t feature = j % sums.size();
      low[feature] = std::min(low[feature], others.low[j]);
      high[feature] = std::max(high[feature], others.high[j]);
      sums[feature] += others.sums[j];
    }
  }

  std::vector<T> low, high;
  std::vector<double> sums;
};

template <typename T>
void spread(const km_rows& rows, const double* center, double* low, double* high, double* sums,
            int threads) {
  const int64_t d = rows.d, parts = n_parts(rows, 1, threads);
  // Rows without gaps are taken together, as many as fill up some vectors.
  constexpr int64_t kNumbers = 8 * kPlaces;
  const bool plain = !rows.weights && rows.column_stride == 1 && rows.row_stride == d && d;
  const int64_t together = plain ? d < kNumbers ? kNumbers / std::gcd(d, kNumbers) : 1 : 0;
  std::vector<double> centers;
  for (int64_t i = 0; center && i < together; ++i)
    centers.insert(centers.end(), center, center + d);
  std::vector<Spread<T>> own, groups;
  own.assign(size_t(parts), Spread<T>(d));
  groups.assign(size_t(parts), Spread<T>(together * d));
  in_parts(rows, parts, [&](int64_t p, int64_t begin, int64_t end) {
    if (together) {
      const int64_t count = (end - begin) / together;
      Spread<T>& some = groups[size_t(p)];
      current_kernel().spread(static_cast<const T*>(rows.x) + begin * d, rows.is_double, count,
                              together * d, center ? centers.data() : nullptr, some.low.data(),
                              some.high.data(), some.sums.data());
      own[size_t(p)].add(some);
      begin += count * together;
    }
    own[size_t(p)].add(rows, center, begin, end);
  });
  Spread<T> all(d);
  for (const Spread<T>& part : own) all.add(part);
  std::copy(all.low.begin(), all.low.end(), low);
  std::copy(all.high.begin(), all.high.end(), high);
  std::copy(all.sums.begin(), all.sums.end(), sums);
}

}  // namespace

extern "C" int km_spread(const km_rows* rows, const double* center, double* low, double* high,
                         double* sums, int threads) {
  return guarded([&] {
    auto run = rows->is_double ? spread<double> : spread<float>;
    run(*rows, center, low, high, sums, threads);
  });
}
