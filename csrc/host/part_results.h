// Results of the parts of an E-step, which threads write at the same time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernel/result.h"

namespace km {

// Labels and distances go straight to the result, since each part has other rows. Sums, counts,
// inertia and changed are added up in the order of the parts: the same bits whichever thread ends
// first.
template <typename T>
class PartResults {
 public:
  // For a result of k clusters with d features.
  PartResults(const Result<T>& result, int64_t parts, int64_t k, int64_t d);
  // Where a part writes to: sums that are zero, of the result itself for the first part.
  Result<T> of_part(int64_t part);
  // Once all parts are done.
  void add_up();

 private:
  const Result<T> result_;
  const std::size_t n_sums_, n_counts_;             // 0 where no sums are asked for
  std::vector<std::vector<double>> sums_, counts_;  // (parts), of all but the first part
  std::vector<double> inertia_;                     // (parts)
  std::vector<int64_t> changed_;                    // (parts)
};

}  // namespace km
