#include "host/moments.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "host/dispatch.h"
#include "host/memory.h"
#include "host/split.h"

namespace km {

namespace {

// Features of some rows: how far they reach, and their sums or those of squares about a center.
template <typename T>
struct Spread {
  explicit Spread(int64_t size)
      : low(size, std::numeric_limits<T>::infinity()),
        high(size, -std::numeric_limits<T>::infinity()),
        sums(size) {}

  // Rows (count, d) one by one; those of weight 0 do not count in sums.
  void add(const T* row, int64_t count, const double* weights, const double* center) {
    const int64_t d = static_cast<int64_t>(sums.size());
    for (int64_t i = 0; i < count; ++i, row += d) {
      const bool counts = !weights || weights[i] > 0;
      for (int64_t j = 0; j < d; ++j) {
        const T value = row[j];
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

}  // namespace

template <typename T>
void moments(const km_rows& rows, const double* center, double* low, double* high, double* sums,
             int threads) {
  const int64_t d = rows.d, parts = n_parts(rows, 1, threads);
  // Rows are taken together, as many as fill up some vectors; and read at once, as many as are in a
  // cache, copied where they have gaps or are of another type.
  constexpr int64_t kNumbers = 8 * kPlaces, kNumbersAtOnce = 1 << 14;
  const bool plain = rows.column_stride == 1 && rows.row_stride == d && !converts(rows);
  const int64_t together = d < kNumbers ? kNumbers / std::gcd(d, kNumbers) : 1;
  const int64_t at_once = (kNumbersAtOnce / (together * d + 1) + 1) * together;
  const auto copies = for_each_part<T>(plain ? 0 : parts, size_t(at_once * d));
  std::vector<double> centers;
  for (int64_t i = 0; center && i < together; ++i)
    centers.insert(centers.end(), center, center + d);
  std::vector<Spread<T>> own, groups;
  own.assign(size_t(parts), Spread<T>(d));
  groups.assign(size_t(parts), Spread<T>(together * d));
  in_parts(rows, parts, [&](int64_t p, int64_t begin, int64_t end) {
    Spread<T>& some = groups[size_t(p)];
    for (int64_t first = begin; first < end; first += at_once) {
      const int64_t count = std::min(at_once, end - first);
      const T* x = static_cast<const T*>(rows.x) + first * d;
      if (!plain) {
        T* const copy = copies[size_t(p)].get();
        current_kernel<T>().copy_rows(rows, first, count, d, copy);
        x = copy;
      }
      const double* const weights = rows.weights ? rows.weights + first : nullptr;
      const int64_t groups_of = weights ? 0 : count / together, grouped = groups_of * together;
      current_kernel<T>().moments(x, groups_of, together * d, center ? centers.data() : nullptr,
                                  some.low.data(), some.high.data(), some.sums.data());
      own[size_t(p)].add(x + grouped * d, count - grouped, weights, center);
    }
    own[size_t(p)].add(some);
  });
  Spread<T> all(d);
  for (const Spread<T>& part : own) all.add(part);
  std::copy(all.low.begin(), all.low.end(), low);
  std::copy(all.high.begin(), all.high.end(), high);
  std::copy(all.sums.begin(), all.sums.end(), sums);
}
template void moments<float>(const km_rows&, const double*, double*, double*, double*, int);
template void moments<double>(const km_rows&, const double*, double*, double*, double*, int);

}  // namespace km
