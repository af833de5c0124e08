#include "host/seeding.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "host/dispatch.h"
#include "host/search_scratch.h"
#include "host/split.h"

namespace km {

namespace {

// Sums of each candidate that Kernel::potentials adds to, so that an addition need not wait for the
// one before.
constexpr int64_t kSums = kLanes;

// Points (m, d) filled up to a multiple of so many by points at infinity, where no row is nearer.
template <typename T>
std::vector<T> padded(const T* points, int64_t m, int64_t d, int64_t multiple) {
  std::vector<T> all(size_t((m + multiple - 1) / multiple * multiple * d),
                     std::numeric_limits<T>::infinity());
  std::copy(points, points + m * d, all.begin());
  return all;
}

// potentials (m): what the sums (parts, m or more, of_candidate) of each candidate come to, part
// after part, so that the result does not depend on which thread ended first.
void add_up_parts(const std::vector<double>& sums, int64_t parts, int64_t of_candidate, int64_t m,
                  double* potentials) {
  const int64_t of_part = int64_t(sums.size()) / parts;
  std::fill_n(potentials, m, 0.0);
  for (int64_t p = 0; p < parts; ++p)
    for (int64_t i = 0; i < m * of_candidate; ++i)
      potentials[i / of_candidate] += sums[size_t(p * of_part + i)];
}

// Elements of the memory that kernels of few features take for a block of rows: block_bytes for
// each feature of the copied rows, and as many for the same rows feature by feature.
template <typename T>
size_t size_of_block(int64_t d) {
  return 2 * size_t(current_kernels().block_bytes) / sizeof(T) * size_t(d);
}

}  // namespace

// Makes candidates (m, d) ready to be compared by their scores; no bounds are kept.
template <typename T>
Search<T> Seeding<T>::search_for(const km_rows& rows, const T* candidates, int64_t m) {
  // Coordinates of the rows are kept, so the origin has to stay where it was for the first
  // candidates: at their mean.
  std::vector<float>& center = directions_.center;
  if (center.empty()) {
    center.assign(size_t(rows.d), 0.0f);
    for (int64_t i = 0; i < m * rows.d; ++i)
      center[size_t(i % rows.d)] += static_cast<float>(candidates[i] / T(m));
  }
  // One thread: candidates are few, and to start another one would take longer.
  const std::vector<T> filled = filled_up(candidates, m, rows.d);
  Search<T> s = {};
  s.coordinates = coordinates_.choose_axes(directions_, filled, m, rows.d);
  const bool screened = coordinates_.measure(filled, m, rows.d, 1);
  places_.order_by_index(m);
  s.places = places_.make(filled, m, rows.d, screened);
  if (!screened) return s;
  s.coordinates = coordinates_.place(s.places.index, s.places.count);
  if (keeps_) s.rows = rows_.by_tile(rows.n, s.coordinates);
  return s;
}

template <typename T>
void Seeding<T>::potentials(const km_rows& rows, const T* nearest, const T* candidates, int64_t m,
                            double* potentials, int threads) {
  candidates_ = filled_up(candidates, m, rows.d);
  reached_.resize(size_t(rows.n));
  if (rows.d > kMeasuredFeatures)
    potentials_by_scores(rows, nearest, candidates, m, potentials, threads);
  else
    potentials_by_distances(rows, nearest, candidates, m, potentials, threads);
}

// Parts take the rows in turns: those far from all centers so far need more distances, and often
// lie next to each other.
template <typename T>
void Seeding<T>::potentials_by_scores(const km_rows& rows, const T* nearest, const T* candidates,
                                      int64_t m, double* potentials, int threads) {
  const int64_t parts = n_parts(rows, m, threads);
  const Search<T> s = search_for(rows, candidates, m);
  const SearchScratch<T> scratch(s, parts);
  std::vector<double> sums(size_t(parts * m));
  in_parallel(parts, [&](int64_t p) {
    const Scratch<T> memory = scratch.of_part(p);
    in_turns(rows, parts, p, [&](int64_t begin, int64_t end) {
      current_kernel<T>().potentials_by_bounds(rows, s, nearest, begin, end, sums.data() + p * m,
                                               reached_.data(), memory);
    });
  });
  if (s.rows.columns) rows_.note_measured();
  add_up_parts(sums, parts, 1, m, potentials);
}

// All distances, of candidates that are filled up to as many as the kernel takes together.
template <typename T>
void Seeding<T>::potentials_by_distances(const km_rows& rows, const T* nearest, const T* candidates,
                                         int64_t m, double* potentials, int threads) {
  const int64_t parts = n_parts(rows, m, threads);
  const std::vector<T> all = padded(candidates, m, rows.d, current_kernels().centroids_together);
  const int64_t m_padded = int64_t(all.size()) / rows.d;
  const auto block = for_each_part<T>(parts, size_of_block<T>(rows.d));
  std::vector<double> sums(size_t(parts * m_padded * kSums));
  in_parts(rows, parts, [&](int64_t p, int64_t begin, int64_t end) {
    current_kernel<T>().potentials(rows, nearest, all.data(), m_padded, begin, end,
                                   sums.data() + p * m_padded * kSums, reached_.data(),
                                   block[size_t(p)].get());
  });
  add_up_parts(sums, parts, kSums, m, potentials);
}

// Which of the last candidates a center (stride) is, bit by bit, if reached_ tells of it; else -1.
template <typename T>
int Seeding<T>::compared_candidate(const std::vector<T>& center) const {
  const size_t stride = center.size();
  const int64_t m = stride ? int64_t(candidates_.size() / stride) : 0;
  for (int64_t c = 0; c < std::min<int64_t>(m, kReportedCandidates); ++c)
    if (!std::memcmp(candidates_.data() + size_t(c) * stride, center.data(), stride * sizeof(T)))
      return static_cast<int>(c);
  return -1;
}

// A center that was a candidate just now is nearer to the rows of which reached_ has its bit, and
// to no others: only these are measured.
template <typename T>
void Seeding<T>::lower(const km_rows& rows, T* nearest, const T* center, bool unchanged,
                       int threads) {
  const std::vector<T> filled = filled_up(center, 1, rows.d);
  const int candidate = unchanged ? compared_candidate(filled) : -1;
  candidates_.clear();  // reached_ compares with nearest before it is lowered
  if (candidate < 0) return lower_all(rows, nearest, filled, threads);
  const int64_t parts = n_parts(rows, 1, threads);
  const auto row = for_each_part<T>(parts, filled.size());
  in_parts(rows, parts, [&](int64_t p, int64_t begin, int64_t end) {
    current_kernel<T>().lower_reached(rows, nearest, filled.data(), int64_t(filled.size()),
                                      reached_.data(), candidate, begin, end, row[size_t(p)].get());
  });
}

// Measures all rows against a center (stride).
template <typename T>
void Seeding<T>::lower_all(const km_rows& rows, T* nearest, const std::vector<T>& center,
                           int threads) {
  const int64_t parts = n_parts(rows, 1, threads);
  const size_t size =
      rows.d > kMeasuredFeatures ? size_t(kBlock) * center.size() : size_of_block<T>(rows.d);
  const auto block = for_each_part<T>(parts, size);
  in_parts(rows, parts, [&](int64_t p, int64_t begin, int64_t end) {
    current_kernel<T>().lower(rows, nearest, center.data(), int64_t(center.size()), begin, end,
                              block[size_t(p)].get());
  });
}

template class Seeding<float>;
template class Seeding<double>;

}  // namespace km
