#include "host/seeding.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "host/dispatch.h"
#include "host/search_scratch.h"
#include "host/split.h"

namespace km {

namespace {

constexpr int64_t kSums = 16;  // of each candidate, for Kernel::potentials

// Points filled up to a multiple, with ones that no row is near.
template <typename T>
std::vector<T> padded(const T* points, int64_t m, int64_t d, int64_t multiple) {
  std::vector<T> all(size_t((m + multiple - 1) / multiple * multiple * d),
                     std::numeric_limits<T>::infinity());
  std::copy(points, points + m * d, all.begin());
  return all;
}

}  // namespace

template <typename T>
Seeding<T>::Seeding(const WorkspaceSettings& settings)
    : settings_(settings), candidates_(settings_) {
  settings_.few_centroids = 0;
}

template <typename T>
Search<T> Seeding<T>::ready(const km_rows& rows, const T* candidates, int64_t m) {
  std::vector<float>& center = settings_.directions.center;
  if (center.empty()) {  // it has to stay where it is
    center.assign(size_t(rows.d), 0.0f);
    for (int64_t i = 0; i < m * rows.d; ++i)
      center[i % rows.d] += static_cast<float>(candidates[i] / T(m));
  }
  Search<T> s = candidates_.ready(rows, candidates, m, nullptr, false, true, 1);
  if (!s.places.count || !settings_.keep) return s;
  if (rows.n != n_) {
    const int64_t blocks = (rows.n + kBlock - 1) / kBlock;
    measured_ = false;
    columns_ = aligned<int32_t>(size_t(blocks * kBlock * s.coordinates.width));
    norms_ = aligned<float>(size_t(blocks * kBlock));
    n_ = rows.n;
  }
  s.rows.columns = columns_.get();
  s.rows.norms = norms_.get();
  s.rows.measured = measured_;
  return s;
}

template <typename T>
void Seeding<T>::potentials(const km_rows& rows, const T* nearest, const T* candidates, int64_t m,
                            double* potentials, int threads) {
  const Kernels& kernels = current_kernels();
  const Kernel<T>& kernel = kernels.of<T>();
  const int64_t parts = n_parts(rows, m, threads);
  last_ = filled_up(candidates, m, rows.d);
  reached_.resize(size_t(rows.n));
  std::vector<double> own;  // (parts, m, kSums) or (parts, m): potentials to be added up
  int64_t sums = 1;
  if (rows.d > kMeasuredFeatures) {
    const Search<T> s = ready(rows, candidates, m);
    const SearchScratch<T> scratch(s, parts);
    own.assign(size_t(parts * m), 0.0);
    in_parallel(parts, [&](int64_t p) {
      in_turns(rows, parts, p, [&](int64_t begin, int64_t end) {
        kernel.potentials_by_bounds(rows, s, nearest, begin, end, own.data() + p * m,
                                    reached_.data(), scratch.of[p]);
      });
    });
    measured_ = s.rows.columns != nullptr;
  } else {
    const std::vector<T> all = padded(candidates, m, rows.d, kernels.centroids_together);
    const int64_t m_padded = static_cast<int64_t>(all.size()) / rows.d;
    const auto block =
        for_each_part<T>(parts, 2 * size_t(kernels.block_bytes) / sizeof(T) * size_t(rows.d));
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
void Seeding<T>::lower(const km_rows& rows, T* nearest, const T* center, bool unchanged,
                       int threads) {
  const Kernels& kernels = current_kernels();
  const Kernel<T>& kernel = kernels.of<T>();
  const int64_t parts = n_parts(rows, 1, threads);
  // The last candidates are known, with whom they reach.
  const std::vector<T> last = std::move(last_), filled = filled_up(center, 1, rows.d);
  last_.clear();
  const int64_t m = filled.empty() ? 0 : int64_t(last.size() / filled.size());
  for (int64_t c = 0; unchanged && c < std::min<int64_t>(m, 16); ++c) {
    if (std::memcmp(last.data() + size_t(c) * filled.size(), filled.data(),
                    filled.size() * sizeof(T)))
      continue;
    const auto row = for_each_part<T>(parts, filled.size());
    return in_parts(rows, parts, [&](int64_t p, int64_t begin, int64_t end) {
      kernel.lower_reached(rows, nearest, filled.data(), int64_t(filled.size()), reached_.data(),
                           static_cast<int>(c), begin, end, row[p].get());
    });
  }
  const size_t of_block = rows.d > kMeasuredFeatures
                              ? size_t(kBlock) * filled.size()
                              : 2 * size_t(kernels.block_bytes) / sizeof(T) * size_t(rows.d);
  const auto block = for_each_part<T>(parts, of_block);
  in_parts(rows, parts, [&](int64_t p, int64_t begin, int64_t end) {
    kernel.lower(rows, nearest, filled.data(), int64_t(filled.size()), begin, end, block[p].get());
  });
}

template class Seeding<float>;
template class Seeding<double>;

}  // namespace km
