#include "host/label_distances.h"

#include <algorithm>
#include <vector>

#include "host/dispatch.h"
#include "host/memory.h"
#include "host/split.h"

namespace km {

namespace {

// Writes distances (n), block by block of kBlock rows, each part in a thread.
//   load(first, count, block): writes rows first to first + count to block (count, stride), filled
//                              up by zeros, at unit length for cosine
template <typename T, typename Load>
void measure(int64_t n, int64_t parts, int64_t d, bool cosine, const T* centroids, int64_t k,
             const int64_t* labels, T* distances, const Load& load) {
  const int64_t stride = filled(d), blocks = (n + kBlock - 1) / kBlock;
  const std::vector<T> filled_centroids = filled_up(centroids, k, d);  // (k, stride)
  const auto block = for_each_part<T>(parts, size_t(kBlock * stride));
  in_parallel(parts, [&](int64_t p) {
    T* const loaded = block[size_t(p)].get();
    for (int64_t b = blocks * p / parts; b < blocks * (p + 1) / parts; ++b) {
      const int64_t first = b * kBlock, count = std::min<int64_t>(kBlock, n - first);
      load(first, count, loaded);
      current_kernel<T>().label_distances(loaded, count, d, stride, cosine, filled_centroids.data(),
                                          labels + first, distances + first);
    }
  });
}

}  // namespace

template <typename T>
void label_distances(const km_rows& rows, const T* centroids, int64_t k, const int64_t* labels,
                     T* distances, int threads) {
  const int64_t stride = filled(rows.d);
  measure(rows.n, n_parts(rows, 1, threads), rows.d, rows.cosine, centroids, k, labels, distances,
          [&](int64_t first, int64_t count, T* block) {
            current_kernel<T>().load(rows, first, count, stride, block);
          });
}

// Sparse rows are written out with their zeros, a block at a time; for cosine they have unit length
// already.
template <typename T>
void sparse_label_distances(const km_sparse& rows, const T* centroids, int64_t k,
                            const int64_t* labels, T* distances, int threads) {
  const int64_t stride = filled(rows.d);
  km_rows sizes = {};  // which n_parts reads
  sizes.n = rows.n, sizes.d = rows.d;
  const T* const values = static_cast<const T*>(rows.values);
  measure(rows.n, n_parts(sizes, 1, threads), rows.d, rows.cosine, centroids, k, labels, distances,
          [&](int64_t first, int64_t count, T* block) {
            std::fill_n(block, count * stride, T(0));
            for (int64_t i = 0; i < count; ++i, block += stride)
              for (int64_t j = rows.starts[first + i]; j < rows.starts[first + i + 1]; ++j)
                block[rows.columns[j]] = values[j];
          });
}

template void label_distances(const km_rows&, const float*, int64_t, const int64_t*, float*, int);
template void label_distances(const km_rows&, const double*, int64_t, const int64_t*, double*, int);
template void sparse_label_distances(const km_sparse&, const float*, int64_t, const int64_t*,
                                     float*, int);
template void sparse_label_distances(const km_sparse&, const double*, int64_t, const int64_t*,
                                     double*, int);

}  // namespace km
