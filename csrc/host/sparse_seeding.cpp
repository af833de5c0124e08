#include "host/sparse_seeding.h"

#include <algorithm>
#include <vector>

#include "host/dispatch.h"
#include "host/sparse_rows.h"
#include "kernel/limits.h"

namespace km {

namespace {

// Points that are measured together: the lanes of Kernel::measure_sparse.
constexpr int kPointsTogether = kLanes;

// Calls use(part, row, distances) for each row, with its squared distances to points (m, d), m from
// 1 to kPointsTogether: distances (16), of which m count, or (1) where m is 1.
template <typename T, typename Use>
void measure(const km_sparse& rows, const T* points, int64_t m, const SparseParts& parts,
             const Use& use) {
  const Kernel<T>& kernel = current_kernel<T>();
  // A single point needs no transpose, and no 15 idle lanes. Lanes beyond m hold zeros.
  const int64_t lanes = m == 1 ? 1 : kPointsTogether;
  std::vector<double> squares(static_cast<size_t>(lanes));
  std::vector<double> columns(m == 1 ? 0 : size_t(rows.d * lanes));  // the points, transposed
  kernel.squares_of(points, m, rows.d, squares.data());
  for (int64_t c = 0; m > 1 && c < m; ++c)
    for (int64_t j = 0; j < rows.d; ++j)
      columns[size_t(j * lanes + c)] = double(points[c * rows.d + j]);
  parts.each([&](int64_t p, int64_t begin, int64_t end) {
    double distances[kBlock * kPointsTogether];
    for (int64_t first = begin; first < end; first += kBlock) {
      const int64_t last = std::min(end, first + kBlock);
      kernel.measure_sparse(rows, m == 1 ? nullptr : columns.data(), points, squares.data(), first,
                            last, distances);
      for (int64_t i = first; i < last; ++i) use(p, i, distances + (i - first) * lanes);
    }
  });
}

}  // namespace

// A pass over the rows for each sixteen centroids. ‖x - c‖² of unit vectors is 2 (1 - cos), of
// which cosine wants half; a row of zeros has no angle, and gets 1.
template <typename T>
void sparse_distances(const km_sparse& rows, const T* centroids, int64_t k, T* to, int threads) {
  for (int64_t first = 0; first < k; first += kPointsTogether) {
    const int64_t together = std::min<int64_t>(k - first, kPointsTogether);
    const SparseParts parts(rows, kPointsTogether, threads);
    measure(rows, centroids + first * rows.d, together, parts,
            [&](int64_t, int64_t i, const double* distances) {
              const bool zero = rows.cosine && is_zero<T>(rows, i);
              for (int64_t c = 0; c < together; ++c)
                to[i * k + first + c] =
                    zero ? T(1) : static_cast<T>(rows.cosine ? distances[c] / 2 : distances[c]);
            });
  }
}

template <typename T>
void sparse_potentials(const km_sparse& rows, const T* nearest, const T* candidates, int64_t m,
                       double* potentials, int threads) {
  std::fill_n(potentials, m, 0.0);
  for (int64_t first = 0; first < m; first += kPointsTogether) {
    const int64_t together = std::min<int64_t>(m - first, kPointsTogether);
    const SparseParts parts(rows, kPointsTogether, threads);
    // (parts, 16): a line for each part, so that no two threads write the same number, and sums do
    // not depend on which thread is faster.
    std::vector<double> part_potentials(size_t(parts.count() * kPointsTogether));
    measure(rows, candidates + first * rows.d, together, parts,
            [&](int64_t p, int64_t i, const double* distances) {
              const double weight = weight_of<T>(rows, i);
              for (int64_t c = 0; c < together; ++c) {
                const T lowered = std::min(nearest[i], static_cast<T>(distances[c]));
                part_potentials[size_t(p * kPointsTogether + c)] += weight * double(lowered);
              }
            });
    for (int64_t p = 0; p < parts.count(); ++p)
      for (int64_t c = 0; c < together; ++c)
        potentials[first + c] += part_potentials[size_t(p * kPointsTogether + c)];
  }
}

// Distances of one center have the bits that they had among sixteen candidates, so that a row that
// sparse_potentials lowered is lowered to the same number here.
template <typename T>
void sparse_lower(const km_sparse& rows, T* nearest, const T* center, int threads) {
  measure(rows, center, 1, SparseParts(rows, 1, threads),
          [&](int64_t, int64_t i, const double* distance) {
            nearest[i] = std::min(nearest[i], static_cast<T>(*distance));
          });
}

template void sparse_lower(const km_sparse&, float*, const float*, int);
template void sparse_potentials(const km_sparse&, const float*, const float*, int64_t, double*,
                                int);
template void sparse_distances(const km_sparse&, const float*, int64_t, float*, int);

template void sparse_lower(const km_sparse&, double*, const double*, int);
template void sparse_potentials(const km_sparse&, const double*, const double*, int64_t, double*,
                                int);
template void sparse_distances(const km_sparse&, const double*, int64_t, double*, int);

}  // namespace km
