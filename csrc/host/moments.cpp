#include "host/moments.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "host/dispatch.h"
#include "host/memory.h"
#include "host/split.h"
#include "kernel/rows/rows.h"

namespace km {

namespace {

// Range and sums of each of so many columns, which are features, or features of rows side by side.
template <typename T>
struct Moments {
  explicit Moments(int64_t columns)
      : low(columns, std::numeric_limits<T>::infinity()),
        high(columns, -std::numeric_limits<T>::infinity()),
        sums(columns) {}

  // Adds rows (count, d) one by one; a row of weight 0 does not count in sums. center (d) and
  // weights (count) may be null.
  void add_rows(const T* row, int64_t count, const double* weights, const double* center) {
    const int64_t d = static_cast<int64_t>(sums.size());
    for (int64_t i = 0; i < count; ++i, row += d) {
      const bool counts = !weights || weights[i] > 0;
      for (int64_t j = 0; j < d; ++j) {
        const T value = row[j];
        const double difference = double(value) - (center ? center[j] : 0);
        low[j] = std::min(low[j], value);
        high[j] = std::max(high[j], value);
        // 0 · value is NaN where value is NaN or infinite, which has to show without a weight too.
        sums[j] += counts ? (center ? difference * difference : difference) : 0 * double(value);
      }
    }
  }

  // Adds the moments of a part, of as many columns or a multiple: feature j % columns is column j.
  void merge(const Moments& part) {
    for (size_t j = 0; j < part.sums.size(); ++j) {
      const size_t feature = j % sums.size();
      low[feature] = std::min(low[feature], part.low[j]);
      high[feature] = std::max(high[feature], part.high[j]);
      sums[feature] += part.sums[j];
    }
  }

  std::vector<T> low, high;  // (columns)
  std::vector<double> sums;  // (columns)
};

// How rows are read: in groups of `together` rows side by side, as many as fill whole vectors, and
// `at_once` rows at a time, a multiple of that, as many as stay in a cache.
struct Reading {
  explicit Reading(int64_t d)
      : together(d < kNumbers ? kNumbers / std::gcd(d, kNumbers) : 1),
        at_once((kNumbersAtOnce / (together * d + 1) + 1) * together) {}

  const int64_t together, at_once;

 private:
  static constexpr int64_t kNumbers = 8 * kLanes;     // of a group: eight vectors of 16
  static constexpr int64_t kNumbersAtOnce = 1 << 14;  // 64 or 128 KB
};

}  // namespace

template <typename T>
void moments(const km_rows& rows, const double* center, double* low, double* high, double* sums,
             int threads) {
  const int64_t d = rows.d, parts = n_parts(rows, 1, threads);
  const Reading reading(d);
  const bool in_place = rows.column_stride == 1 && rows.row_stride == d && !converts(rows);
  const auto copies = for_each_part<T>(in_place ? 0 : parts, size_t(reading.at_once * d));
  std::vector<double> centers;  // (together, d), or empty
  for (int64_t i = 0; center && i < reading.together; ++i)
    centers.insert(centers.end(), center, center + d);
  std::vector<Moments<T>> of_part(static_cast<size_t>(parts), Moments<T>(d));
  std::vector<Moments<T>> of_groups(static_cast<size_t>(parts), Moments<T>(reading.together * d));
  in_parts(rows, parts, [&](int64_t p, int64_t begin, int64_t end) {
    Moments<T>& groups = of_groups[size_t(p)];
    for (int64_t first = begin; first < end; first += reading.at_once) {
      const int64_t count = std::min(reading.at_once, end - first);
      const T* x = nullptr;  // (count, d)
      if (in_place) {
        x = row_at<T>(rows, first);
      } else {
        T* const copy = copies[size_t(p)].get();
        current_kernel<T>().copy_rows(rows, first, count, d, copy);
        x = copy;
      }
      // Rows that do not fill a group, and all rows where weights decide which ones count.
      const double* const weights = rows.weights ? rows.weights + first : nullptr;
      const int64_t n_groups = weights ? 0 : count / reading.together;
      const int64_t grouped = n_groups * reading.together;
      current_kernel<T>().moments(x, n_groups, reading.together * d,
                                  center ? centers.data() : nullptr, groups.low.data(),
                                  groups.high.data(), groups.sums.data());
      of_part[size_t(p)].add_rows(x + grouped * d, count - grouped, weights, center);
    }
    of_part[size_t(p)].merge(groups);
  });
  // In the order of the parts, however many threads worked at a time.
  Moments<T> all(d);
  for (const Moments<T>& part : of_part) all.merge(part);
  std::copy(all.low.begin(), all.low.end(), low);
  std::copy(all.high.begin(), all.high.end(), high);
  std::copy(all.sums.begin(), all.sums.end(), sums);
}
template void moments<float>(const km_rows&, const double*, double*, double*, double*, int);
template void moments<double>(const km_rows&, const double*, double*, double*, double*, int);

}  // namespace km
