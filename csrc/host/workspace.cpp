#include "host/workspace.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "host/box_tree.h"
#include "host/seeding.h"
#include "host/split.h"

namespace km {

namespace {

// Where most pairs are looked at all the same, bounds rest for some calls.
constexpr double kMostVisited = 0.98;
constexpr int kPause = 2;
// Distances between centroids rest longer where they settle few rows.
constexpr double kFewPlain = 0.02;
constexpr int kPauseOfApart = 8;
// Above this share of pairs, bounds of rows serve better than distances between centroids.
constexpr double kManyBetween = 0.6;
// And where, while hardly a label changes any more, so that bounds last, they have come to this
// share in all, less a little each time: by then bounds would have been paid for.
constexpr double kSumBetween = 0.05, kLittleBetween = 0.004, kFewChanged = 0.05;
// Steps of bounds to the distance of a typical row: many where centroids move little, so that
// rounding counts; few where they move far, so that what they have moved can be added up for some
// calls.
constexpr double kFewSteps = 64, kManySteps = 256, kStepsMoved = 16;
constexpr int64_t kSample = 1000;          // of rows that are asked what is typical
constexpr float kUnit = 1.0f / (1 << 24);  // the rounding error of one operation

}  // namespace

// How many bounds a row gets: all that is kept takes at most half as much as the rows, 64 bytes
// for each, and something for each thread.
template <typename T>
void Workspace<T>::choose_bounds(const km_rows& rows, int threads, Search<T>& s) {
  constexpr int64_t element = sizeof(T);
  int64_t room = rows.d * element / 2 + 64 + kBoundsOfThread * threads / rows.n -
                 int64_t(sizeof(int64_t) + sizeof(int32_t) + sizeof(T) + sizeof(float));
  if (s.rows.coordinates)
    room -= s.coordinates.pitch * int64_t(sizeof(int32_t)) + int64_t(sizeof(float));
  // More take too long to read where all features are few.
  if (!settings.directions.count) room = std::min(room, 2 * rows.d);
  if (room < 1) return;
  const int64_t together = (s.places.k + room - 1) / room;
  const int64_t groups = (s.places.k + together - 1) / together;
  if (groups != groups_ || together != together_ || !bounds_) {
    groups_ = groups;
    together_ = together;
    const int64_t blocks = (rows.n + kBlock - 1) / kBlock;
    bounds_ = aligned<uint8_t>(size_t(blocks * groups * kBlock));
    base_ = aligned<float>(size_t(blocks * kBlock));
    bounded_ = false;
  }
  group_of_.resize(s.places.count);
  for (int64_t place = 0; place < s.places.count; ++place)
    group_of_[place] = static_cast<int32_t>(place / together_);
  s.bounds.steps = bounds_.get();
  s.bounds.base = base_.get();
}

// Finds out how far the centroids have moved since the last call.
template <typename T>
void Workspace<T>::follow(const T* centroids, int threads, Search<T>& s) {
  before_.resize(size_t(s.places.k * s.places.d));
  shifts_.assign(size_t(s.places.k), 0.0);
  T* const before = before_.data();
  in_shares(s.places.k, n_shares(s.places.k, s.places.d, threads),
            [&](int64_t, int64_t begin, int64_t end) {
              for (int64_t c = begin; followed_ && c < end; ++c) {
                const T *const now = centroids + c * s.places.d, *const then =
                                                                     before + c * s.places.d;
                if (std::equal(now, now + s.places.d, then)) continue;
                double squares = 0;
                for (int64_t j = 0; j < s.places.d; ++j) {
                  const double difference = double(now[j]) - double(then[j]);
                  squares += difference * difference;
                }
                shifts_[c] = std::sqrt(squares) * (1 + 1e-6);
              }
              std::copy(centroids + begin * s.places.d, centroids + end * s.places.d,
                        before + begin * s.places.d);
            });
  drift_.assign(size_t(s.places.count), 0.0f);
  for (int64_t place = 0; place < s.places.k; ++place)
    drift_[place] = static_cast<float>(shifts_[index_[place]]);
  if (!reach_) reach_ = aligned<float>(size_t(n_));
  s.upper.reach = reach_.get();
  s.upper.drift = drift_.data();
}

// Adds up how far groups have moved since bounds are there.
template <typename T>
void Workspace<T>::move(Search<T>& s) {
  if (!bounded_) {
    moved_.assign(groups_, 0.0);
    const double farthest = *std::max_element(shifts_.begin(), shifts_.end());
    step_ = std::clamp(farthest / kStepsMoved, typical_ / kManySteps, typical_ / kFewSteps);
  }
  std::vector<double> most(groups_, 0.0);
  for (int64_t c = 0; bounded_ && c < s.places.k; ++c) {
    double& far = most[group_of_[position_[c]]];
    far = std::max(far, shifts_[c]);
  }
  for (int64_t g = 0; g < groups_; ++g) moved_[g] += most[g] / step_;
  settled_.clear();
  if (*std::max_element(moved_.begin(), moved_.end()) > kMostSteps) {
    for (double& moved : moved_) {
      settled_.push_back(static_cast<uint8_t>(std::min(255.0, std::ceil(moved))));
      moved = 0;
    }
  }
  moved_most_.resize(groups_);
  moved_least_.resize(groups_);
  for (int64_t g = 0; g < groups_; ++g) {
    moved_most_[g] = static_cast<uint8_t>(std::ceil(moved_[g]));
    moved_least_[g] = static_cast<float>(std::floor(moved_[g]));
  }
  terms_.resize(size_t(s.places.count));
  for (int64_t place = 0; place < s.places.k; ++place)
    terms_[place] = {s.coordinates.units[place], s.coordinates.offsets[place],
                     moved_least_[group_of_[place]], 0};
  s.bounds.terms = reinterpret_cast<const float (*)[4]>(terms_.data());
  s.bounds.group_of = group_of_.data();
  s.bounds.per_step = static_cast<float>(1 / step_);
  s.bounds.drift_above = moved_most_.data();
  s.bounds.drift_below = moved_least_.data();
  s.bounds.rebase = settled_.empty() ? nullptr : settled_.data();
  s.bounds.valid = bounded_;
}

template <typename T>
void Workspace<T>::keep_coordinates_of(const km_rows& rows, Search<T>& s) {
  if (!settings.directions.count || !settings.keep) return;
  if (!measured_) {
    coordinates_ = aligned<int32_t>(size_t(rows.n * s.coordinates.pitch));
    norms_ = aligned<float>(size_t(rows.n));
  }
  s.rows.coordinates = coordinates_.get();
  s.rows.norms = norms_.get();
  s.rows.measured = measured_;
}

template <typename T>
void Workspace<T>::end_seeding() {
  seeding_.reset();
  if (!tree_) return;
  tree_->end_seeding();
  if (tree_->view().labels.moments) return;
  tree_.reset();  // it does not serve the E-step
  sorted_ = false;
}

template <typename T>
BoxTree<T>* Workspace<T>::tree(const km_rows& rows, int threads) {
  if (!settings.sort || rows.d > kSortedFeatures) return nullptr;
  if (!sorted_) tree_ = BoxTree<T>::of(rows, threads);
  sorted_ = true;
  return tree_.get();
}

template <typename T>
Workspace<T>::Workspace(WorkspaceSettings& given) : settings(given) {}
template <typename T>
Workspace<T>::~Workspace() = default;

template <typename T>
void Workspace<T>::forget_coordinates() {
  measured_ = false;
  seeding_.reset();
}

template <typename T>
Seeding<T>& Workspace<T>::seeding() {
  if (!seeding_) {
    coordinates_.reset();  // its own take as much memory
    bounds_.reset();
    measured_ = bounded_ = false;
    seeding_ = std::make_unique<Seeding<T>>(settings);
  }
  return *seeding_;
}

template <typename T>
Search<T> Workspace<T>::ready(const km_rows& rows, const T* centroids, int64_t k,
                              const int64_t* labels, bool keeps, bool all, int threads) {
  Search<T> s = {};
  s.places.k = k;
  s.places.d = rows.d;
  s.places.stride = filled(s.places.d);
  s.places.count = k > settings.few_centroids ? filled(k) : 0;
  if (k != k_ || rows.n != n_) {
    arranged_ = bounded_ = followed_ = false;
    between_pays_ = true;
    spent_ = 0;
    bounds_.reset();
    reach_.reset();
    labels_.reset();
    pause_ = pause_of_apart_ = 0;
    typical_ = 0;
    k_ = k;
    n_ = rows.n;
  }
  if (keeps) {
    if (!labels_) {
      labels_ = aligned<int32_t>(size_t(n_));
      std::fill_n(labels_.get(), n_, 0);
    }
    s.labels = labels_.get();
  }
  index_.resize(std::max(s.places.count, k));
  position_.resize(k);

  const int64_t directions = settings.directions.count;
  const std::vector<float>& given_center = settings.directions.center;
  s.coordinates.directions = directions;
  s.coordinates.basis = settings.directions.basis.data();
  const int64_t numbers = directions ? directions + 1 : s.places.d;
  s.coordinates.width = (numbers + 1) / 2;
  s.coordinates.pitch = filled(s.coordinates.width);
  center_.assign(s.places.stride, 0.0f);
  if (!given_center.empty()) {
    std::copy(given_center.begin(), given_center.end(), center_.begin());
  } else {
    for (int64_t j = 0; j < s.places.d; ++j) {
      double sum = 0;
      for (int64_t c = 0; c < k; ++c) sum += double(centroids[c * s.places.d + j]);
      center_[j] = static_cast<float>(sum / double(k));
    }
  }
  s.coordinates.center = center_.data();
  const float summed =
      float(std::min<int64_t>(s.places.stride, 1024) / 16 + s.places.stride / 1024);
  const float measuring = float(std::min<int64_t>(s.places.d, 128) + s.places.d / 128 + 4);
  const float from_directions = kUnit * std::sqrt(float(directions)) * measuring;
  s.coordinates.slack = 1 + 4 * kUnit * (summed + 24);
  s.coordinates.blur = 2 * from_directions + kUnit * float(s.places.stride / 16 + 32 + directions);
  const float rounding = 0.503f * std::sqrt(float(numbers)) / kWhole;  // of coordinates
  s.coordinates.margin = 2 * (from_directions + kUnit * float(s.places.stride / 16 + 64)) +
                         2 * rounding * (1 + 2 * rounding);
  if (!directions) s.coordinates.margin += kUnit * float(s.places.stride);

  if (s.places.count && keeps) keep_coordinates_of(rows, s);
  const bool bounds_pay =
      pause_ == 0 && typical_ > 0 && (directions ? s.rows.coordinates != nullptr : !between_pays_);
  if (s.places.count && keeps && bounds_pay) choose_bounds(rows, threads, s);
  followed_ &= labels && keeps;
  if (!s.bounds.steps || !followed_) bounded_ = false;  // bounds are of others than their labels
  if (!bounded_) arranged_ = false;
  if (s.places.count) pack(centroids, threads, s);
  if (!s.places.count) {
    s.bounds.steps = nullptr;
    bounded_ = arranged_ = false;
    std::iota(index_.begin(), index_.end(), 0);
    std::iota(position_.begin(), position_.end(), 0);
    const std::vector<T> filled = filled_up(centroids, k, s.places.d);
    centroids_ = aligned<T>(filled.size());
    std::memcpy(centroids_.get(), filled.data(), filled.size() * sizeof(T));
    s.places.centroids = centroids_.get();
  }
  s.places.index = index_.data();
  s.places.position = position_.data();
  s.bounds.groups = s.bounds.steps ? groups_ : 0;
  s.bounds.together = s.bounds.steps ? together_ : k;
  if (s.places.count && labels) separate(rows, threads, s);
  if (s.places.count && keeps) follow(centroids, threads, s);
  if (s.bounds.steps) move(s);
  const bool can_tell = s.bounds.valid || (s.gaps.nearest && !s.bounds.steps);
  s.upper.pairs_before = static_cast<float>(settings.share_visited * double(k));
  s.upper.compared_before = static_cast<float>(share_compared_);
  const bool readable =
      !s.rows.coordinates || s.rows.measured;  // rows that are not measured have theirs
  s.upper.valid = followed_ && s.upper.reach && !all && knows_inertia && can_tell && readable;
  followed_ = s.upper.reach != nullptr;
  return s;
}

template <typename T>
void Workspace<T>::searched(const Search<T>& s, int64_t n, const Seen& seen, int64_t changed) {
  const double most = double(n) * double(s.places.k);
  settings.share_visited = s.places.count && most > 0 ? double(seen.pairs) / most : 1.0;
  share_compared_ = n ? double(seen.compared) / double(n) : 0;
  if (s.rows.coordinates && s.places.count) measured_ = true;
  if (pause_ > 0) --pause_;
  if (pause_of_apart_ > 0) --pause_of_apart_;
  if (s.bounds.valid && settings.share_visited > kMostVisited) {
    pause_ = kPause;
    between_pays_ = true;
    spent_ = 0;
  }
  if (s.gaps.pairwise) {
    const bool still = double(changed) < kFewChanged * double(n);
    spent_ = still ? spent_ + std::max(settings.share_visited - kLittleBetween, 0.0) : 0;
    between_pays_ = spent_ < kSumBetween && settings.share_visited < kManyBetween;
  }
  if (s.gaps.nearest && !(s.gaps.pairwise && between_pays_) &&
      double(seen.plain) < kFewPlain * double(n))
    pause_of_apart_ = kPauseOfApart;
  bounded_ = s.bounds.steps != nullptr && pause_ == 0;
  if (bounded_ || !s.upper.reach) return;
  std::vector<double> some;
  for (int64_t i = 0; i < n; i += n / kSample + 1) some.push_back(double(s.upper.reach[i]));
  if (some.empty()) return;
  std::nth_element(some.begin(), some.begin() + some.size() / 2, some.end());
  typical_ = some[some.size() / 2];
  if (!(typical_ * typical_ < kTooLarge)) typical_ = 0;
}

template class Workspace<float>;
template class Workspace<double>;

}  // namespace km

void km_workspace::project(const float* given, const float* center, int64_t p, int64_t d) {
  km::Directions& directions = settings.directions;
  of_float.forget_coordinates();
  of_double.forget_coordinates();
  directions.count = p;
  directions.center.assign(center, center + (p ? d : 0));
  // Sixteen directions to a panel; rounding shall not make it longer than orthonormal.
  directions.basis.assign(size_t((p + 15) / 16 * 16 * d), 0.0f);
  for (int64_t i = 0; i < p; ++i)
    for (int64_t j = 0; j < d; ++j)
      directions.basis[size_t((i / 16 * d + j) * 16 + i % 16)] = given[i * d + j] * (1 - 1e-5f);
}

void km_workspace::end_seeding() {
  of_float.end_seeding();
  of_double.end_seeding();
}
