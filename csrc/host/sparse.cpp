#include "host/sparse.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "host/dispatch.h"
#include "host/memory.h"
#include "host/split.h"

namespace km {

namespace {

constexpr int kCandidatesOfSparse = 16;  // measured together

// Rows split over threads, consecutive and with about as many numbers each.
class SparseParts {
 public:
  SparseParts(const km_sparse& rows, int64_t k, int threads) : rows_(rows) {
    const double work = double(numbers(rows.n)) * double(k);
    count = std::max<int64_t>(
        1, std::min<int64_t>({threads, rows.n, int64_t(work / kWorkPerThread) + 1}));
  }

  // The first row of a part.
  int64_t begin(int64_t p) const {
    const int64_t target = numbers(rows_.n) * p / count;
    int64_t low = 0, high = rows_.n;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (numbers(middle) < target)
        low = middle + 1;
      else
        high = middle;
    }
    return p == count ? rows_.n : low;
  }

  // Calls work(part, begin, end) for each part.
  template <typename Work>
  void each(const Work& work) const {
    in_parallel(count, [&](int64_t p) { work(p, begin(p), begin(p + 1)); });
  }

  int64_t count;

 private:
  static constexpr int64_t kOfRow = 8;  // numbers that take as long as what each row takes
  int64_t numbers(int64_t rows) const {
    return rows_.starts[rows] - rows_.starts[0] + rows * kOfRow;
  }

  const km_sparse& rows_;
};

// Centroids (k, d) made ready for Kernel::search_sparse.
template <typename T>
struct SparseCentroids {
  SparseCentroids(const T* centroids, int64_t k, int64_t d, int threads) {
    const Kernel<T>& kernel = current_kernel<T>();
    const int64_t stride = d > kFewFeatures ? filled(d) : d, places = filled(k);
    columns_ = aligned<T>(size_t(d * places));
    halves_.assign(size_t(places), std::numeric_limits<T>::infinity());
    norms_.assign(size_t(places), T(0));
    squares_.resize(size_t(k));
    if (stride != d) filled_ = aligned<T>(size_t(k * stride));
    const int64_t shares = n_shares(k, d, threads);
    in_shares(k, shares, [&](int64_t, int64_t begin, int64_t end) {
      kernel.squares_of(centroids + begin * d, end - begin, d, squares_.data() + begin);
      for (int64_t c = begin; c < end; ++c) {
        halves_[size_t(c)] = static_cast<T>(squares_[size_t(c)] / 2);
        norms_[size_t(c)] = static_cast<T>(std::sqrt(squares_[size_t(c)]));
        if (stride == d) continue;
        std::memcpy(filled_.get() + c * stride, centroids + c * d, size_t(d) * sizeof(T));
        std::fill_n(filled_.get() + c * stride + d, stride - d, T(0));
      }
    });
    constexpr int64_t kTogether = 16;  // features that are read together, of one centroid
    const int64_t blocks = (d + kTogether - 1) / kTogether;
    in_shares(blocks, std::min(blocks, shares), [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t first = begin * kTogether; first < std::min(d, end * kTogether);
           first += kTogether) {
        const int64_t last = std::min(d, first + kTogether);
        for (int64_t c = 0; c < places; ++c)
          for (int64_t j = first; j < last; ++j)
            columns_[size_t(j * places + c)] = c < k ? centroids[c * d + j] : T(0);
      }
    });
    search = {k,
              d,
              stride,
              places,
              columns_.get(),
              halves_.data(),
              norms_.data(),
              squares_.data(),
              stride == d ? centroids : filled_.get()};
  }

  SparsePlaces<T> search;

 private:
  std::unique_ptr<T[], Free> columns_, filled_;
  std::vector<T> halves_, norms_;
  std::vector<double> squares_;
};

template <typename T>
bool is_zero(const km_sparse& rows, int64_t i) {
  const T* const values = static_cast<const T*>(rows.values);
  return std::all_of(values + rows.starts[i], values + rows.starts[i + 1],
                     [](T value) { return value == 0; });
}

template <typename T>
double weight_of(const km_sparse& rows, int64_t i) {
  if (rows.cosine && is_zero<T>(rows, i)) return 0;
  return rows.weights ? rows.weights[i] : 1.0;
}

// Sums and counts of clusters: each is added up by one thread, in the order of its rows, so that
// nothing depends on how many threads there are.
template <typename T>
void add_up(const km_sparse& rows, int64_t k, const Result<T>& result, int threads) {
  std::vector<int64_t> ends(size_t(k) + 1), order(size_t(rows.n)), numbers(size_t(k) + 1);
  for (int64_t i = 0; i < rows.n; ++i) {
    ++ends[size_t(result.labels[i]) + 1];
    numbers[size_t(result.labels[i]) + 1] += rows.starts[i + 1] - rows.starts[i];
  }
  for (int64_t c = 0; c < k; ++c) {
    ends[size_t(c) + 1] += ends[size_t(c)];
    numbers[size_t(c) + 1] += numbers[size_t(c)] + rows.d;  // which are set to 0 first
  }
  std::vector<int64_t> next(ends.begin(), ends.end() - 1);
  for (int64_t i = 0; i < rows.n; ++i) order[size_t(next[size_t(result.labels[i])]++)] = i;
  const int64_t shares = n_shares(k, numbers.back() / k, threads);
  auto first_of = [&](int64_t share) {
    const int64_t target = numbers.back() * share / shares;
    return std::lower_bound(numbers.begin(), numbers.end() - 1, target) - numbers.begin();
  };
  in_parallel(shares, [&](int64_t share) {
    const int64_t end = share + 1 == shares ? k : first_of(share + 1);
    for (int64_t c = first_of(share); c < end; ++c) {
      double* const sums = result.sums + c * rows.d;
      std::fill_n(sums, rows.d, 0.0);
      double count = 0;
      for (int64_t place = ends[size_t(c)]; place < ends[size_t(c) + 1]; ++place) {
        const int64_t i = order[size_t(place)];
        const double weight = weight_of<T>(rows, i);
        count += weight;
        for (int64_t n = rows.starts[i]; n < rows.starts[i + 1]; ++n)
          sums[rows.columns[n]] += weight * double(static_cast<const T*>(rows.values)[n]);
      }
      result.counts[c] = count;
    }
  });
}

}  // namespace

template <typename T>
void sparse_e_step(const km_sparse& rows, const T* given, int64_t k, const Result<T>& result,
                   int threads) {
  const Kernel<T>& kernel = current_kernel<T>();
  const SparseCentroids<T> centroids(given, k, rows.d, threads);
  const SparsePlaces<T>& s = centroids.search;
  const SparseParts parts(rows, k, threads);
  const auto lower = for_each_part<T>(parts.count, size_t(s.count));
  const auto row = for_each_part<T>(parts.count, size_t(s.stride));
  std::vector<double> inertia(size_t(parts.count));
  std::vector<int64_t> changed(size_t(parts.count));
  parts.each([&](int64_t p, int64_t begin, int64_t end) {
    Result<T> own = result;
    own.inertia = &inertia[size_t(p)];
    own.changed = &changed[size_t(p)];
    std::fill_n(row[size_t(p)].get(), s.stride, T(0));
    kernel.search_sparse(rows, s, begin, end, own, {row[size_t(p)].get(), lower[size_t(p)].get()});
  });
  *result.inertia = 0;
  *result.changed = 0;
  for (int64_t p = 0; p < parts.count; ++p) {
    *result.inertia += inertia[size_t(p)];
    *result.changed += changed[size_t(p)];
  }
  if (result.sums) add_up<T>(rows, k, result, threads);
}

namespace {

// Calls use(part, row, squared distances) with those of each row to a few points (m, d): of
// sixteen, or of one where there is only one.
template <typename T, typename Use>
void measure(const km_sparse& rows, const T* points, int64_t m, const SparseParts& parts,
             const Use& use) {
  const Kernel<T>& kernel = current_kernel<T>();
  const int64_t lanes = m == 1 ? 1 : kCandidatesOfSparse;
  std::vector<double> squares(static_cast<size_t>(lanes));
  std::vector<double> columns(m == 1 ? 0 : size_t(rows.d * lanes));
  kernel.squares_of(points, m, rows.d, squares.data());
  for (int64_t c = 0; m > 1 && c < m; ++c)
    for (int64_t j = 0; j < rows.d; ++j)
      columns[size_t(j * lanes + c)] = double(points[c * rows.d + j]);
  parts.each([&](int64_t p, int64_t begin, int64_t end) {
    double distances[kBlock * kCandidatesOfSparse];
    for (int64_t first = begin; first < end; first += kBlock) {
      const int64_t last = std::min(end, first + kBlock);
      kernel.measure_sparse(rows, m == 1 ? nullptr : columns.data(), points, squares.data(), first,
                            last, distances);
      for (int64_t i = first; i < last; ++i) use(p, i, distances + (i - first) * lanes);
    }
  });
}

}  // namespace

template <typename T>
void sparse_distances(const km_sparse& rows, const T* centroids, int64_t k, T* to, int threads) {
  for (int64_t first = 0; first < k; first += kCandidatesOfSparse) {
    const int64_t together = std::min<int64_t>(k - first, kCandidatesOfSparse);
    measure(rows, centroids + first * rows.d, together,
            SparseParts(rows, kCandidatesOfSparse, threads),
            [&](int64_t, int64_t i, const double* found) {
              const bool zero = rows.cosine && is_zero<T>(rows, i);
              for (int64_t c = 0; c < together; ++c)
                to[i * k + first + c] =
                    zero ? T(1) : static_cast<T>(rows.cosine ? found[c] / 2 : found[c]);
            });
  }
}

template <typename T>
void sparse_potentials(const km_sparse& rows, const T* nearest, const T* candidates, int64_t m,
                       double* potentials, int threads) {
  std::fill_n(potentials, m, 0.0);
  for (int64_t first = 0; first < m; first += kCandidatesOfSparse) {
    const int64_t together = std::min<int64_t>(m - first, kCandidatesOfSparse);
    const SparseParts parts(rows, kCandidatesOfSparse, threads);
    std::vector<double> own(size_t(parts.count * kCandidatesOfSparse));
    measure(rows, candidates + first * rows.d, together, parts,
            [&](int64_t p, int64_t i, const double* distances) {
              const double weight = weight_of<T>(rows, i);
              for (int64_t c = 0; c < together; ++c) {
                const T lowered = std::min(nearest[i], static_cast<T>(distances[c]));
                own[size_t(p * kCandidatesOfSparse + c)] += weight * double(lowered);
              }
            });
    for (int64_t p = 0; p < parts.count; ++p)
      for (int64_t c = 0; c < together; ++c)
        potentials[first + c] += own[size_t(p * kCandidatesOfSparse + c)];
  }
}

template <typename T>
void sparse_lower(const km_sparse& rows, T* nearest, const T* center, int threads) {
  measure(rows, center, 1, SparseParts(rows, 1, threads),
          [&](int64_t, int64_t i, const double* distance) {
            nearest[i] = std::min(nearest[i], static_cast<T>(*distance));
          });
}

template <typename T>
void sparse_unit(const km_sparse& rows, T* values, int threads) {
  SparseParts(rows, 1, threads).each([&](int64_t, int64_t begin, int64_t end) {
    current_kernel<T>().unit_sparse(rows, begin, end, values);
  });
}

template void sparse_e_step(const km_sparse&, const float*, int64_t, const Result<float>&, int);
template void sparse_lower(const km_sparse&, float*, const float*, int);
template void sparse_potentials(const km_sparse&, const float*, const float*, int64_t, double*,
                                int);
template void sparse_distances(const km_sparse&, const float*, int64_t, float*, int);
template void sparse_unit(const km_sparse&, float*, int);

template void sparse_e_step(const km_sparse&, const double*, int64_t, const Result<double>&, int);
template void sparse_lower(const km_sparse&, double*, const double*, int);
template void sparse_potentials(const km_sparse&, const double*, const double*, int64_t, double*,
                                int);
template void sparse_distances(const km_sparse&, const double*, int64_t, double*, int);
template void sparse_unit(const km_sparse&, double*, int);

}  // namespace km
