// Sparse rows beside the same rows with their zeros.
#pragma once

#include "fuzz_dense.h"

namespace fuzz {

template <typename T>
class Sparse {
 public:
  Sparse(Input& input, int64_t n, int64_t d) : input_(input), n_(n), d_(d), x_(n * d) {
    const std::vector<T> values = numbers<T>(input, n * d);
    const double share = input.one_of({0.0, 0.05, 0.3, 1.0});
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < d; ++j)
        if (input.uniform() < share) {
          columns_.push_back(static_cast<int32_t>(j));
          values_.push_back(x_[i * d + j] = values[i * d + j]);
        }
      starts_.push_back(static_cast<int64_t>(columns_.size()));
    }
    weights_ = weights(input, n);
    sparse_ = {starts_.data(),
               columns_.data(),
               values_.data(),
               n,
               d,
               input.coin() ? weights_.data() : nullptr,
               sizeof(T) == 8,
               input.coin()};
    dense_.x = x_.data(), dense_.n = n, dense_.d = d, dense_.row_stride = d;
    dense_.column_stride = 1, dense_.is_double = dense_.element = sizeof(T) == 8;
    dense_.weights = sparse_.weights, dense_.cosine = sparse_.cosine;
  }

  void run() {
    const int64_t k = input_.one_of<int64_t>({1, 2, 5, 20, 64});
    std::vector<T> centroids = numbers<T>(input_, k * d_);
    for (int64_t c = 0; n_ && c < k && input_.byte() % 4; ++c)
      std::copy_n(x_.begin() + input_.below(n_) * d_, d_, centroids.begin() + c * d_);
    unit();
    const Answer<T> sparse = e_step(centroids, k, true), dense = e_step(centroids, k, false);
    PROMISE(sparse.changed == n_);
    for (int64_t label : sparse.labels) PROMISE(label >= 0 && label < k);
    const bool is_tame = tame(x_.data(), n_ * d_) && tame(centroids.data(), k * d_);
    if (!is_tame) return seed(centroids, k, false);
    PROMISE(sparse.labels == dense.labels);
    PROMISE(sparse.distances == dense.distances);
#if KM_ABI_VERSION >= 5
    std::vector<T> again(n_);
    PROMISE(!km_sparse_label_distances(&sparse_, centroids.data(), k, sparse.labels.data(),
                                       again.data(), threads()));
    PROMISE(again == sparse.distances);
#endif
    for (int64_t c = 0; c < k; ++c)
      PROMISE(close(sparse.counts[c], dense.counts[c], 1e-12, dense.counts[c]));
    PROMISE(close(sparse.inertia, dense.inertia, sizeof(T) == 8 ? 1e-9 : 1e-3, dense.inertia));
    distances(centroids, k);
    seed(centroids, k, true);
  }

 private:
  // Values at unit length have the bits that whole rows get.
  void unit() {
    std::vector<T> unit(values_.size()), whole(n_ * d_);
    PROMISE(!km_sparse_unit(&sparse_, unit.data(), threads()));
    if (!sparse_.cosine) return;
    PROMISE(!km_load(&dense_, whole.data(), threads()));
    if (tame(x_.data(), n_ * d_))
      for (int64_t i = 0; i < n_; ++i)
        for (int64_t at = starts_[i]; at < starts_[i + 1]; ++at)
          PROMISE(unit[at] == whole[i * d_ + columns_[at]]);
    values_ = unit;
    sparse_.values = values_.data();
  }

  Answer<T> e_step(const std::vector<T>& centroids, int64_t k, bool is_sparse) {
    Answer<T> answer = {std::vector<int64_t>(n_, -1), std::vector<T>(n_),
                        std::vector<double>(k * d_), std::vector<double>(k)};
    const km_result result = {answer.labels.data(),
                              answer.distances.data(),
                              answer.sums.data(),
                              answer.counts.data(),
                              &answer.inertia,
                              &answer.changed,
                              0};
    PROMISE(!(is_sparse ? km_sparse_e_step(&sparse_, centroids.data(), k, &result, threads())
                        : km_e_step(&dense_, centroids.data(), k, &result, nullptr, threads())));
    return answer;
  }

  // All distances, which come of products: their rounding is that of the squared norms.
  void distances(const std::vector<T>& centroids, int64_t k) {
    std::vector<T> all(n_ * k), rows = x_;
    PROMISE(!km_sparse_distances(&sparse_, centroids.data(), k, all.data(), threads()));
    const std::vector<T> zeros(d_);
    for (int64_t i = 0; i < n_; ++i) {
      T* const row = rows.data() + i * d_;
      if (sparse_.cosine) reference::normalize(row, d_, rounds_once);
      const double norm = reference::distance(row, zeros.data(), d_, rounds_once);
      for (int64_t c = 0; c < k; ++c) {
        const T* const centroid = centroids.data() + c * d_;
        const double scale = norm + reference::distance(centroid, zeros.data(), d_, rounds_once);
        double expected = reference::distance(row, centroid, d_, rounds_once);
        if (sparse_.cosine) expected = norm ? expected / 2 : 1;
        PROMISE(all[i * k + c] >= 0);
        PROMISE(close(all[i * k + c], expected, sizeof(T) == 8 ? 1e-12 : 1e-5, scale));
      }
    }
  }

  // Potentials and lowered distances, like those of the rows with their zeros.
  void seed(const std::vector<T>& centroids, int64_t k, bool is_tame) {
    // Rows without a direction are to have weight 0 in seeding.
    for (int64_t i = 0; sparse_.cosine && i < n_; ++i)
      if (std::all_of(x_.begin() + i * d_, x_.begin() + (i + 1) * d_, [](T v) { return v == 0; }))
        weights_[i] = 0;
    if (sparse_.cosine) sparse_.weights = dense_.weights = weights_.data();
    km_workspace* const workspace = km_open(0, 0);
    std::vector<T> sparse(n_, std::numeric_limits<T>::infinity());
    const int64_t first = input_.below(k) * d_;
    PROMISE(!km_sparse_lower(&sparse_, sparse.data(), centroids.data() + first, threads()));
    std::vector<T> dense = sparse;
    std::vector<double> potentials(k), expected(k);
    PROMISE(!km_sparse_potentials(&sparse_, sparse.data(), centroids.data(), k, potentials.data(),
                                  threads()));
    PROMISE(!km_potentials(&dense_, dense.data(), centroids.data(), k, 0, expected.data(),
                           workspace, threads()));
    PROMISE(!km_sparse_lower(&sparse_, sparse.data(), centroids.data(), threads()));
    PROMISE(!km_lower(&dense_, dense.data(), centroids.data(), 0, workspace, threads()));
    km_close(workspace);
    double scale = 1;  // of the squared norms
    for (T value : x_) scale += double(value) * double(value);
    for (T value : centroids) scale += double(value) * double(value);
    for (int64_t i = 0; is_tame && i < n_; ++i) PROMISE(close(sparse[i], dense[i], 1e-5, scale));
    for (int64_t c = 0; is_tame && c < k; ++c)
      PROMISE(close(potentials[c], expected[c], 1e-4, double(n_ + 1) * scale));
  }

  int threads() { return static_cast<int>(input_.between(1, 3)); }

  Input& input_;
  int64_t n_, d_;
  std::vector<T> x_, values_;
  std::vector<int64_t> starts_ = {0};
  std::vector<int32_t> columns_;
  std::vector<double> weights_;
  km_sparse sparse_;
  km_rows dense_ = {};
};

}  // namespace fuzz
