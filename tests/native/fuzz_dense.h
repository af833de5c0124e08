// E-steps and seeding of dense rows, in any order on one workspace.
#pragma once

#include "fuzz_rows.h"

namespace fuzz {

// Products of a row and a centroid's features that a check by brute force may take.
constexpr int64_t kCheap = 1 << 16;

// Whether nothing of a row or a centroid, n_values of them, is infinite, NaN, or squares to that.
template <typename T>
bool tame(const T* values, int64_t n_values) {
  return std::all_of(values, values + n_values, [](T value) {
    return std::fabs(value) < std::sqrt(std::numeric_limits<T>::max()) / 1024;
  });
}

// How the result of an E-step that a caller asked for looks.
template <typename T>
struct Answer {
  std::vector<int64_t> labels;
  std::vector<T> distances;
  std::vector<double> sums, counts;
  double inertia = 0;
  int64_t changed = 0;
};

// Checks an answer against brute force on a few rows, and its sums against its labels on all.
template <typename T>
void check(const Rows<T>& rows, const std::vector<T>& centroids, int64_t k,
           const Answer<T>& answer) {
  const int64_t n = rows.view.n, d = rows.view.d;
  for (int64_t label : answer.labels) PROMISE(label >= 0 && label < k);
  const bool is_tame =
      tame(rows.unit.data(), n * d) && tame(centroids.data(), static_cast<int64_t>(k * d));
  if (!is_tame) return;
  const double half = rows.view.cosine ? 0.5 : 1;
  const int64_t every = n * k * d / kCheap + 1;
  for (int64_t i = n ? n % every : 0; i < n; i += every) {
    auto found = reference::nearest(rows.unit.data() + i * d, centroids.data(), k, d, rounds_once);
    if (rows.has_none(i)) found = {0, 2};
    PROMISE(answer.labels[i] == found.label);
    PROMISE(answer.distances.empty() ||
            answer.distances[i] == static_cast<T>(found.distance * half));
  }
  for (T distance : answer.distances) PROMISE(distance >= 0);
  if (answer.sums.empty()) return;
  std::vector<double> sums(k * d), scales(k * d), counts(k);
  double inertia = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double weight = rows.weight(i);
    const int64_t label = answer.labels[i];
    counts[label] += weight;
    for (int64_t j = 0; j < d; ++j) {
      sums[label * d + j] += weight * rows.unit[i * d + j];
      scales[label * d + j] += weight * std::fabs(double(rows.unit[i * d + j]));
    }
    if (answer.distances.empty()) continue;
    inertia += weight * answer.distances[i];
  }
  for (int64_t c = 0; c < k; ++c) PROMISE(close(answer.counts[c], counts[c], 1e-12, counts[c]));
  for (int64_t j = 0; j < k * d; ++j) PROMISE(close(answer.sums[j], sums[j], 1e-9, scales[j]));
  if (!answer.distances.empty())
    PROMISE(close(answer.inertia, inertia, sizeof(T) == 8 ? 1e-9 : 1e-3, inertia));
}

// A workspace with the rows, the centroids and the distances of seeding that it knows.
template <typename T>
class Dense {
 public:
  Dense(Input& input, int64_t n, int64_t d) : input_(input), rows_(input, n, d) {
    workspace_ = km_open(input.coin(), input.coin());
    PROMISE(workspace_);
    choose_centroids();
    nearest_.assign(n, std::numeric_limits<T>::infinity());
  }
  Dense(const Dense&) = delete;
  Dense& operator=(const Dense&) = delete;
  ~Dense() { km_close(workspace_); }

  void run() {
    for (int64_t calls = input_.between(1, 10); calls; --calls) {
      const int what = input_.byte() % 16;
      if (what < 10)
        e_step();
      else if (what < 12)
        seed();
      else if (what == 12)
        choose_centroids();
      else if (what == 13)
        project();
      else
        move(what == 14 ? 1e-3 : 1.0);
    }
  }

 private:
  void choose_centroids() {
    const int64_t k = input_.one_of<int64_t>({1, 2, 3, 7, 16, 17, 33, 64, 100, 150});
    const int64_t n = rows_.view.n, d = rows_.view.d;
    centroids_ = numbers<T>(input_, k * d);
    const bool of_rows = n && input_.byte() % 4;
    for (int64_t c = 0; of_rows && c < k; ++c)
      std::copy_n(rows_.unit.begin() + input_.below(n) * d, d, centroids_.begin() + c * d);
    warm_ = warm_ && k == k_;
    k_ = k;
  }

  // Moves centroids: all a little, or one of them anywhere.
  void move(double share) {
    if (share < 1) {
      for (T& value : centroids_) value += static_cast<T>(share * (input_.uniform() - 0.5)) * value;
    } else if (rows_.view.n) {
      std::copy_n(rows_.unit.begin() + input_.below(rows_.view.n) * rows_.view.d, rows_.view.d,
                  centroids_.begin() + input_.below(k_) * rows_.view.d);
    }
  }

  void e_step() {
    const int64_t n = rows_.view.n, d = rows_.view.d;
    Answer<T> answer;
    // Labels are those of the last call with this workspace, or with none.
    km_workspace* const workspace = input_.byte() % 8 ? workspace_ : nullptr;
    warm_ = warm_ && workspace == last_ && input_.byte() % 8;
    answer.labels = warm_ ? labels_ : std::vector<int64_t>(n, -1);
    if (input_.coin()) answer.distances.resize(n);
    if (input_.byte() % 4) answer.sums.resize(k_ * d), answer.counts.resize(k_);
    km_result result = {};
    result.labels = answer.labels.data();
    result.distances = answer.distances.empty() ? nullptr : answer.distances.data();
    result.sums = answer.sums.empty() ? nullptr : answer.sums.data();
    result.counts = answer.counts.empty() ? nullptr : answer.counts.data();
    result.inertia = &answer.inertia, result.changed = &answer.changed;
    result.warm = warm_;
    PROMISE(!km_e_step(&rows_.view, centroids_.data(), k_, &result, workspace, threads()));
    int64_t changed = n;
    for (int64_t i = 0; warm_ && i < n; ++i) changed -= labels_[i] == answer.labels[i];
    PROMISE(answer.changed == changed);
    check(rows_, centroids_, k_, answer);
#if KM_ABI_VERSION >= 5
    std::vector<T> again(n);
    PROMISE(!km_label_distances(&rows_.view, centroids_.data(), k_, answer.labels.data(),
                                again.data(), threads()));
    PROMISE(answer.distances.empty() || !is_tame() || again == answer.distances);
#endif
    labels_ = answer.labels, warm_ = true, last_ = workspace;
    unchanged_ = false;  // a workspace may forget what seeding knew
    if (answer.sums.empty() || input_.coin()) return;
    for (int64_t c = 0; c < k_; ++c)  // the M-step
      for (int64_t j = 0; j < d && answer.counts[c] > 0; ++j)
        centroids_[c * d + j] = static_cast<T>(answer.sums[c * d + j] / answer.counts[c]);
  }

  // A round of k-means++: potentials of candidates, of which one becomes a center.
  void seed() {
    const int64_t n = rows_.view.n, d = rows_.view.d;
    const int64_t m = std::min(k_, input_.one_of<int64_t>({1, 5, 16, 20}));
    std::vector<double> potentials(m);
    if (seeds_ && input_.byte() % 8) {
      PROMISE(!km_potentials(&rows_.view, nearest_.data(), centroids_.data(), m, unchanged_,
                             potentials.data(), workspace_, threads()));
      unchanged_ = true;
      for (int64_t c = 0; c < m; ++c) check_potential(centroids_.data() + c * d, potentials[c]);
    }
    const int64_t chosen = input_.below(m);
    std::vector<T> expected = nearest_;
    for (int64_t i = 0; i < n; ++i) expected[i] = lowered(i, centroids_.data() + chosen * d);
    PROMISE(!km_lower(&rows_.view, nearest_.data(), centroids_.data() + chosen * d, unchanged_,
                      workspace_, threads()));
    unchanged_ = seeds_ = true;
    if (!is_tame()) return;
    for (int64_t i = 0; i < n; ++i)
      PROMISE(close(nearest_[i], expected[i], kUnit * 16, expected[i]));
    if (n && input_.byte() % 4 == 0) {
      nearest_[input_.below(n)] = T(input_.uniform());
      unchanged_ = false;
    }
  }

  void check_potential(const T* candidate, double potential) const {
    if (!is_tame() || !tame(nearest_.data(), rows_.view.n)) return;
    double expected = 0, scale = 0;  // a potential is what the potential before exceeds a gain by
    for (int64_t i = 0; i < rows_.view.n; ++i) {
      const double weight = rows_.view.weights ? rows_.view.weights[i] : 1;
      expected += weight * double(lowered(i, candidate));
      scale += weight * double(nearest_[i]);
    }
    PROMISE(close(potential, expected, sizeof(T) == 8 ? 1e-9 : 1e-5, scale));
  }

  T lowered(int64_t i, const T* center) const {
    const T to = reference::distance(rows_.unit.data() + i * rows_.view.d, center, rows_.view.d,
                                     rounds_once);
    return to < nearest_[i] ? to : nearest_[i];
  }

  bool is_tame() const {
    return tame(rows_.unit.data(), static_cast<int64_t>(rows_.unit.size())) &&
           tame(centroids_.data(), static_cast<int64_t>(centroids_.size()));
  }

  // Some features as directions: they are orthonormal.
  void project() {
    const int64_t d = rows_.view.d, p = input_.one_of<int64_t>({0, 15, 31});
    if (p >= d || d < 24) return;
    std::vector<float> basis(p * d), center(d);
    const int64_t first = input_.below(d);
    for (int64_t i = 0; i < p; ++i) basis[i * d + (first + i) % d] = input_.coin() ? 1.0f : -1.0f;
    for (float& value : center) value = static_cast<float>(input_.uniform() - 0.5);
    PROMISE(!km_project(workspace_, basis.data(), center.data(), p, d));
  }

  int threads() { return static_cast<int>(input_.between(1, 3)); }

  static constexpr double kUnit = std::numeric_limits<T>::epsilon();

  Input& input_;
  const Rows<T> rows_;
  km_workspace *workspace_, *last_ = nullptr;
  int64_t k_ = 0;
  std::vector<T> centroids_, nearest_;
  std::vector<int64_t> labels_;
  bool warm_ = false, unchanged_ = false, seeds_ = false;
};

}  // namespace fuzz
