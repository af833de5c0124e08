#include "seeding.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "parts.h"

namespace {

constexpr int64_t kSums = 16;  // of each candidate, for km_kernel::potentials

// The bytes of rows (m, d) filled up to (m, stride).
template <typename T>
std::vector<char> bytes_of(const T* rows, int64_t m, int64_t d) {
  const std::vector<T> filled = filled_up(rows, m, d);
  const char* begin = reinterpret_cast<const char*>(filled.data());
  return std::vector<char>(begin, begin + filled.size() * sizeof(T));
}

// Points filled up to a multiple, with ones that no row is near.
template <typename T>
std::vector<T> padded(const T* points, int64_t m, int64_t d, int64_t multiple) {
  std::vector<T> all(size_t((m + multiple - 1) / multiple * multiple * d),
                     std::numeric_limits<T>::infinity());
  std::copy(points, points + m * d, all.begin());
  return all;
}

}  // namespace

km_seeding::km_seeding(const km_workspace& workspace) : keep_(workspace.keep) {
  candidates_.directions = workspace.directions;
  candidates_.basis = workspace.basis;
  candidates_.given_center = workspace.given_center;
  candidates_.few_centroids = 0;
}

template <typename T>
km_search km_seeding::ready(const km_kernel& kernel, const km_rows& rows, const T* candidates,
                            int64_t m) {
  std::vector<float>& center = candidates_.given_center;
  if (center.empty()) {  // it has to stay where it is
    center.assign(size_t(rows.d), 0.0f);
    for (int64_t i = 0; i < m * rows.d; ++i)
      center[i % rows.d] += static_cast<float>(candidates[i] / T(m));
  }
  km_search s = candidates_.ready(kernel, rows, candidates, m, nullptr, false, true, 1);
  if (!s.places || !keep_) return s;
  if (rows.n != n_) {
    const int64_t blocks = (rows.n + kBlock - 1) / kBlock;
    measured_ = false;
    columns_ = aligned<int32_t>(size_t(blocks * kBlock * s.width));
    norms_ = aligned<float>(size_t(blocks * kBlock));
    n_ = rows.n;
  }
  s.columns = columns_.get();
  s.norms = norms_.get();
  s.measured = measured_;
  return s;
}

template <typename T>
void km_seeding::potentials(const km_rows& rows, const T* nearest, const T* candidates, int64_t m,
                            double* potentials, int threads) {
  const km_kernel& kernel = current_kernel();
  const int64_t parts = n_parts(rows, m, threads);
  last_ = bytes_of(candidates, m, rows.d);
  reached_.resize(size_t(rows.n));
  std::vector<double> own;  // (parts, m, kSums) or (parts, m): potentials to be added up
  int64_t sums = 1;
  if (rows.d > kMeasuredFeatures) {
    const km_search s = ready(kernel, rows, candidates, m);
    const Scratch scratch(s, sizeof(T), parts);
    own.assign(size_t(parts * m), 0.0);
    in_parallel(parts, [&](int64_t p) {
      in_turns(rows, parts, p, [&](int64_t begin, int64_t end) {
        kernel.potentials_by_bounds(rows, s, nearest, begin, end, own.data() + p * m,
                                    reached_.data(), scratch.of[p]);
      });
    });
    measured_ = s.columns != nullptr;
  } else {
    const std::vector<T> all = padded(candidates, m, rows.d, kernel.centroids_together);
    const int64_t m_padded = static_cast<int64_t>(all.size()) / rows.d;
    const auto block = blocks(parts, 2 * size_t(kernel.block_bytes) * size_t(rows.d));
    sums = kSums;
    own.assign(size_t(parts * m_padded * sums), 0.0);
    in_parts(rows, parts, [&](int64_t p, int64_t begin, int64_t end) {
      kernel.potentials(rows, nearest, all.data(), m_padded, begin, end,
                        own.data() + p * m_padded * sums, reached_.data(), block[p].get());
    });
  }
  const int64_t of_part = static_cast<int64_t>(own.size()) / parts;
  std::fill_n(potentials, m, 0.0);
  for (int64_t p = 0; p < parts; ++p)
    for (int64_t i = 0; i < m * sums; ++i) potentials[i / sums] += own[p * of_part + i];
}

template <typename T>
void km_seeding::lower(const km_rows& rows, T* nearest, const T* center, bool unchanged,
                       int threads) {
  const km_kernel& kernel = current_kernel();
  const int64_t parts = n_parts(rows, 1, threads);
  // The last candidates are known, with whom they reach.
  const std::vector<char> last = std::move(last_), filled = bytes_of(center, 1, rows.d);
  last_.clear();
  const int64_t m = filled.empty() ? 0 : int64_t(last.size() / filled.size());
  for (int64_t c = 0; unchanged && c < std::min<int64_t>(m, 16); ++c) {
    if (std::memcmp(last.data() + size_t(c) * filled.size(), filled.data(), filled.size()))
      continue;
    const auto row = blocks(parts, filled.size());
    return in_parts(rows, parts, [&](int64_t p, int64_t begin, int64_t end) {
      kernel.lower_reached(rows, nearest, filled.data(), int64_t(filled.size() / sizeof(T)),
                           reached_.data(), static_cast<int>(c), begin, end, row[p].get());
    });
  }
  const size_t of_block = rows.d > kMeasuredFeatures
                              ? size_t(kBlock) * filled.size()
                              : 2 * size_t(kernel.block_bytes) * size_t(rows.d);
  const auto block = blocks(parts, of_block);
  in_parts(rows, parts, [&](int64_t p, int64_t begin, int64_t end) {
    kernel.lower(rows, nearest, filled.data(), int64_t(filled.size() / sizeof(T)), begin, end,
                 block[p].get());
  });
}

template void km_seeding::potentials<float>(const km_rows&, const float*, const float*, int64_t,
                                            double*, int);
template void km_seeding::potentials<double>(const km_rows&, const double*, const double*, int64_t,
                                             double*, int);
template void km_seeding::lower<float>(const km_rows&, float*, const float*, bool, int);
template void km_seeding::lower<double>(const km_rows&, double*, const double*, bool, int);
