#include "host/label_distances.h"

#include <algorithm>
#include <vector>

#include "host/dispatch.h"
#include "host/memory.h"
#include "host/split.h"
#include "kernel/rows/rows.h"

namespace km {

namespace {

// Rows, of whatever kind, and the labels whose distances they are to get. Made by the two functions
// below.
template <typename T>
struct LabeledRows {
  int64_t n, d;
  int64_t at_once;        // rows that are written out together, in a thread
  bool cosine;            // halves distances; a zero row is at distance 1
  const int64_t* labels;  // (n), 0 to k - 1
  T* distances;           // (n), overwritten
};

// Measures all rows against the centroids (k, d) of their labels, split over threads: each row is
// written out as the deciding distance takes it, filled up by zeros to a multiple of 16 features.
//   load(first, count, to): writes rows first to first + count to to (count, stride), for cosine at
//                           unit length
template <typename T, typename Load>
void measure(const LabeledRows<T>& rows, const T* centroids, int64_t k, int threads,
             const Load& load) {
  const int64_t stride = filled(rows.d);
  std::vector<T> copies;  // (k, stride), where features are no multiple of 16
  if (stride != rows.d) copies = filled_up(centroids, k, rows.d);
  const T* const of_labels = copies.empty() ? centroids : copies.data();
  km_rows sizes = {};  // which n_parts reads
  sizes.n = rows.n, sizes.d = rows.d;
  const int64_t parts = n_parts(sizes, 1, threads);
  const int64_t batches = (rows.n + rows.at_once - 1) / rows.at_once;
  const auto batch = for_each_part<T>(parts, size_t(rows.at_once * stride));
  in_parallel(parts, [&](int64_t p) {
    T* const loaded = batch[size_t(p)].get();
    for (int64_t b = batches * p / parts; b < batches * (p + 1) / parts; ++b) {
      const int64_t first = b * rows.at_once, count = std::min(rows.at_once, rows.n - first);
      load(first, count, loaded);
      current_kernel<T>().label_distances(loaded, count, rows.d, stride, rows.cosine, of_labels,
                                          rows.labels + first, rows.distances + first);
    }
  });
}

}  // namespace

template <typename T>
void label_distances(const km_rows& rows, const T* centroids, int64_t k, const int64_t* labels,
                     T* distances, int threads) {
  const int64_t stride = filled(rows.d);
  measure<T>({rows.n, rows.d, kBlock, rows.cosine != 0, labels, distances}, centroids, k, threads,
             [&](int64_t first, int64_t count, T* to) {
               current_kernel<T>().load(rows, first, count, stride, to);
             });
}

// Sparse rows are written out with their zeros one by one, since d may be so large that a block of
// them has no room in a cache. For cosine their numbers have unit length already.
template <typename T>
void sparse_label_distances(const km_sparse& rows, const T* centroids, int64_t k,
                            const int64_t* labels, T* distances, int threads) {
  const int64_t stride = filled(rows.d);
  const T* const values = values_of<T>(rows);
  measure<T>({rows.n, rows.d, 1, rows.cosine != 0, labels, distances}, centroids, k, threads,
             [&](int64_t i, int64_t, T* to) {
               std::fill_n(to, stride, T(0));
               for (int64_t j = rows.starts[i]; j < rows.starts[i + 1]; ++j)
                 to[rows.columns[j]] = values[j];
             });
}

template void label_distances(const km_rows&, const float*, int64_t, const int64_t*, float*, int);
template void label_distances(const km_rows&, const double*, int64_t, const int64_t*, double*, int);
template void sparse_label_distances(const km_sparse&, const float*, int64_t, const int64_t*,
                                     float*, int);
template void sparse_label_distances(const km_sparse&, const double*, int64_t, const int64_t*,
                                     double*, int);

}  // namespace km
