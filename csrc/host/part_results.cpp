#include "host/part_results.h"

#include <algorithm>

namespace km {

// The first part adds to the result itself, which saves a copy where there is one part alone.
template <typename T>
PartResults<T>::PartResults(const Result<T>& result, int64_t parts, int64_t k, int64_t d)
    : result_(result),
      n_sums_(result.sums ? size_t(k) * size_t(d) : 0),
      n_counts_(result.sums ? size_t(k) : 0),
      sums_(size_t(parts)),
      counts_(size_t(parts)),
      inertia_(size_t(parts)),
      changed_(size_t(parts)) {
  for (size_t p = 1; p < size_t(parts); ++p) {
    sums_[p].assign(n_sums_, 0.0);
    counts_[p].assign(n_counts_, 0.0);
  }
  std::fill_n(result.sums, n_sums_, 0.0);
  std::fill_n(result.counts, n_counts_, 0.0);
}

template <typename T>
Result<T> PartResults<T>::of_part(int64_t part) {
  const size_t p = size_t(part);
  Result<T> part_result = result_;
  part_result.inertia = &inertia_[p];
  part_result.changed = &changed_[p];
  if (p && result_.sums) {
    part_result.sums = sums_[p].data();
    part_result.counts = counts_[p].data();
  }
  return part_result;
}

// Doubles are added one part after the other: another order would round otherwise.
template <typename T>
void PartResults<T>::add_up() {
  *result_.inertia = 0;
  *result_.changed = 0;
  for (size_t p = 0; p < inertia_.size(); ++p) {
    *result_.inertia += inertia_[p];
    *result_.changed += changed_[p];
    if (p == 0) continue;
    for (size_t i = 0; i < n_sums_; ++i) result_.sums[i] += sums_[p][i];
    for (size_t i = 0; i < n_counts_; ++i) result_.counts[i] += counts_[p][i];
  }
}

template class PartResults<float>;
template class PartResults<double>;

}  // namespace km
