#include "host/sparse_e_step.h"

#include <algorithm>
#include <vector>

#include "host/dispatch.h"
#include "host/memory.h"
#include "host/sparse_centroids.h"
#include "host/sparse_rows.h"

namespace km {

namespace {

// Rows in the order of their clusters, and within a cluster in the order they came; made from the
// labels (n), each 0 to k - 1, by a counting sort in O(n + k).
class RowsByCluster {
 public:
  RowsByCluster(const km_sparse& rows, const int64_t* labels, int64_t k)
      : first_(size_t(k) + 1), numbers_(size_t(k) + 1), order_(size_t(rows.n)) {
    for (int64_t i = 0; i < rows.n; ++i) {
      ++first_[size_t(labels[i]) + 1];
      numbers_[size_t(labels[i]) + 1] += rows.starts[i + 1] - rows.starts[i];
    }
    for (int64_t c = 0; c < k; ++c) {
      first_[size_t(c) + 1] += first_[size_t(c)];
      numbers_[size_t(c) + 1] += numbers_[size_t(c)] + rows.d;
    }
    // next[c]: the place of the next row of cluster c.
    std::vector<int64_t> next(first_.begin(), first_.end() - 1);
    for (int64_t i = 0; i < rows.n; ++i) order_[size_t(next[size_t(labels[i])]++)] = i;
  }

  // Calls work(row) for each row of cluster c, in order.
  template <typename Work>
  void each_row(int64_t c, const Work& work) const {
    for (int64_t place = first_[size_t(c)]; place < first_[size_t(c) + 1]; ++place)
      work(order_[size_t(place)]);
  }

  // Numbers of all rows and d for each cluster, whose sums are set to 0 first.
  int64_t numbers() const { return numbers_.back(); }

  // The first cluster of a share, so that shares have about as many numbers each; k for the end.
  int64_t first_cluster(int64_t share, int64_t shares) const {
    if (share == shares) return int64_t(numbers_.size()) - 1;
    const int64_t target = numbers() * share / shares;
    return std::lower_bound(numbers_.begin(), numbers_.end() - 1, target) - numbers_.begin();
  }

 private:
  std::vector<int64_t> first_;    // (k + 1): place in order_ of the first row of each cluster
  std::vector<int64_t> numbers_;  // (k + 1): numbers of the clusters before each
  std::vector<int64_t> order_;    // (n): row numbers
};

// Writes result.sums (k, d) and result.counts (k), by weight. Each cluster is added up by one
// thread, in the order of the rows, so that nothing depends on how many threads there are. Adding
// rows where they are found would need (k, d) for each thread, most of it zeros.
template <typename T>
void add_up(const km_sparse& rows, int64_t k, const Result<T>& result, int threads) {
  const RowsByCluster by_cluster(rows, result.labels, k);
  const int64_t shares = n_shares(k, by_cluster.numbers() / k, threads);
  const T* const values = values_of<T>(rows);
  in_parallel(shares, [&](int64_t share) {
    const int64_t end = by_cluster.first_cluster(share + 1, shares);
    for (int64_t c = by_cluster.first_cluster(share, shares); c < end; ++c) {
      double* const sums = result.sums + c * rows.d;
      std::fill_n(sums, rows.d, 0.0);
      double count = 0;
      by_cluster.each_row(c, [&](int64_t i) {
        const double weight = weight_of<T>(rows, i);
        count += weight;
        for (int64_t n = rows.starts[i]; n < rows.starts[i + 1]; ++n)
          sums[rows.columns[n]] += weight * double(values[n]);
      });
      result.counts[c] = count;
    }
  });
}

}  // namespace

template <typename T>
void sparse_e_step(const km_sparse& rows, const T* centroids, int64_t k, const Result<T>& result,
                   int threads) {
  const SparseCentroids<T> ready(centroids, k, rows.d, threads);
  const SparsePlaces<T> places = ready.places();
  const SparseParts parts(rows, k, threads);
  // SparseScratch of each part.
  const auto lower = for_each_part<T>(parts.count(), size_t(places.count));
  const auto row = for_each_part<T>(parts.count(), size_t(places.stride));
  std::vector<double> inertia(size_t(parts.count()));
  std::vector<int64_t> changed(size_t(parts.count()));
  parts.each([&](int64_t p, int64_t begin, int64_t end) {
    Result<T> part_result = result;
    part_result.inertia = &inertia[size_t(p)];
    part_result.changed = &changed[size_t(p)];
    std::fill_n(row[size_t(p)].get(), places.stride, T(0));
    current_kernel<T>().search_sparse(rows, places, begin, end, part_result,
                                      {row[size_t(p)].get(), lower[size_t(p)].get()});
  });
  // Parts are added up in order; how many there are depends on sizes and threads only.
  *result.inertia = 0;
  *result.changed = 0;
  for (int64_t p = 0; p < parts.count(); ++p) {
    *result.inertia += inertia[size_t(p)];
    *result.changed += changed[size_t(p)];
  }
  if (result.sums) add_up<T>(rows, k, result, threads);
}
template void sparse_e_step(const km_sparse&, const float*, int64_t, const Result<float>&, int);
template void sparse_e_step(const km_sparse&, const double*, int64_t, const Result<double>&, int);

}  // namespace km
