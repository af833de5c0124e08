#include "workspace.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "parts.h"
#include "seeding.h"
#include "tree.h"

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
constexpr int64_t kSample = 1000;  // of rows that are asked what is typical
constexpr float kUnit = 1.0f / (1 << 24);  // the rounding error of one operation

}  // namespace

// How many bounds a row gets: all that is kept takes at most half as much as the rows, 64 bytes
// for each, and something for each thread.
void km_workspace::choose_bounds(const km_rows& rows, size_t element, int threads, km_search& s) {
  int64_t room = rows.d * int64_t(element) / 2 + 64 + kBoundsOfThread * threads / rows.n -
                 int64_t(sizeof(int64_t) + sizeof(int32_t) + element + sizeof(float));
  if (s.coordinates) room -= s.pitch * int64_t(sizeof(int32_t)) + int64_t(sizeof(float));
  // More take too long to read where all features are few.
  if (!directions) room = std::min(room, 2 * rows.d);
  if (room < 1) return;
  const int64_t together = (s.k + room - 1) / room;
  const int64_t groups = (s.k + together - 1) / together;
  if (groups != groups_ || together != together_ || !bounds_) {
    groups_ = groups;
    together_ = together;
    const int64_t blocks = (rows.n + kBlock - 1) / kBlock;
    bounds_ = aligned<uint8_t>(size_t(blocks * groups * kBlock));
    base_ = aligned<float>(size_t(blocks * kBlock));
    bounded_ = false;
  }
  group_of_.resize(s.places);
  for (int64_t place = 0; place < s.places; ++place)
    group_of_[place] = static_cast<int32_t>(place / together_);
  s.bounds = bounds_.get();
  s.base = base_.get();
}

// Finds out how far the centroids have moved since the last call.
template <typename T>
void km_workspace::follow(const T* centroids, int threads, km_search& s) {
  before_.resize(size_t(s.k * s.d) * sizeof(T));
  shifts_.assign(size_t(s.k), 0.0);
  T* before = reinterpret_cast<T*>(before_.data());
  in_shares(s.k, n_shares(s.k, s.d, threads), [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t c = begin; followed_ && c < end; ++c) {
      const T *const now = centroids + c * s.d, *const then = before + c * s.d;
      if (std::equal(now, now + s.d, then)) continue;
      double squares = 0;
      for (int64_t j = 0; j < s.d; ++j) {
        const double difference = double(now[j]) - double(then[j]);
        squares += difference * difference;
      }
      shifts_[c] = std::sqrt(squares) * (1 + 1e-6);
    }
    std::copy(centroids + begin * s.d, centroids + end * s.d, before + begin * s.d);
  });
  drift_.assign(size_t(s.places), 0.0f);
  for (int64_t place = 0; place < s.k; ++place)
    drift_[place] = static_cast<float>(shifts_[index_[place]]);
  if (!reach_) reach_ = aligned<float>(size_t(n_));
  s.reach = reach_.get();
  s.drift = drift_.data();
}

// Adds up how far groups have moved since bounds are there.
void km_workspace::move(km_search& s) {
  if (!bounded_) {
    moved_.assign(groups_, 0.0);
    const double farthest = *std::max_element(shifts_.begin(), shifts_.end());
    step_ = std::clamp(farthest / kStepsMoved, typical_ / kManySteps, typical_ / kFewSteps);
  }
  std::vector<double> most(groups_, 0.0);
  for (int64_t c = 0; bounded_ && c < s.k; ++c) {
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
  terms_.resize(size_t(s.places));
  for (int64_t place = 0; place < s.k; ++place)
    terms_[place] = {s.units[place], s.offsets[place], moved_least_[group_of_[place]], 0};
  s.terms = reinterpret_cast<const float(*)[4]>(terms_.data());
  s.group_of = group_of_.data();
  s.per_step = static_cast<float>(1 / step_);
  s.moved_most = moved_most_.data();
  s.moved_least = moved_least_.data();
  s.settled = settled_.empty() ? nullptr : settled_.data();
  s.bounded = bounded_;
}

template <typename T>
void km_workspace::keep_coordinates_of(const km_rows& rows, km_search& s) {
  if (!directions || !keep) return;
  if (!measured_) {
    coordinates_ = aligned<int32_t>(size_t(rows.n * s.pitch));
    norms_ = aligned<float>(size_t(rows.n));
  }
  s.coordinates = coordinates_.get();
  s.norms = norms_.get();
  s.measured = measured_;
}

void km_workspace::end_seeding() {
  seeding_.reset();
  if (!tree_) return;
  tree_->end_seeding();
  if (tree_->view().moments) return;
  tree_.reset();  // it does not serve the E-step
  sorted_ = false;
}

Tree* km_workspace::tree(const km_rows& rows, int threads) {
  if (!sort || rows.d > kSortedFeatures) return nullptr;
  if (!sorted_) tree_ = Tree::of(rows, threads);
  sorted_ = true;
  return tree_.get();
}

km_workspace::km_workspace() = default;
km_workspace::~km_workspace() = default;

void km_workspace::project(const float* given, const float* center, int64_t p, int64_t d) {
  directions = p;
  measured_ = false;
  seeding_.reset();
  given_center.assign(center, center + (p ? d : 0));
  // Sixteen directions to a panel; rounding shall not make it longer than orthonormal.
  basis.assign(size_t((p + 15) / 16 * 16 * d), 0.0f);
  for (int64_t i = 0; i < p; ++i)
    for (int64_t j = 0; j < d; ++j)
      basis[size_t((i / 16 * d + j) * 16 + i % 16)] = given[i * d + j] * (1 - 1e-5f);
}

km_seeding& km_workspace::seeding() {
  if (!seeding_) {
    coordinates_.reset();  // its own take as much memory
    bounds_.reset();
    measured_ = bounded_ = false;
    seeding_ = std::make_unique<km_seeding>(*this);
  }
  return *seeding_;
}

template <typename T>
km_search km_workspace::ready(const km_kernel& kernel, const km_rows& rows, const T* centroids,
                              int64_t k, const int64_t* labels, bool keeps, bool all, int threads) {
  km_search s = {};
  s.k = k;
  s.d = rows.d;
  s.stride = filled(s.d);
  s.places = k > few_centroids ? filled(k) : 0;
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
  index_.resize(std::max(s.places, k));
  position_.resize(k);

  s.directions = directions;
  s.basis = basis.data();
  const int64_t numbers = directions ? directions + 1 : s.d;
  s.width = (numbers + 1) / 2;
  s.pitch = filled(s.width);
  center_.assign(s.stride, 0.0f);
  if (!given_center.empty()) {
    std::copy(given_center.begin(), given_center.end(), center_.begin());
  } else {
    for (int64_t j = 0; j < s.d; ++j) {
      double sum = 0;
      for (int64_t c = 0; c < k; ++c) sum += double(centroids[c * s.d + j]);
      center_[j] = static_cast<float>(sum / double(k));
    }
  }
  s.center = center_.data();
  const float summed = float(std::min<int64_t>(s.stride, 1024) / 16 + s.stride / 1024);
  const float measuring = float(std::min<int64_t>(s.d, 128) + s.d / 128 + 4);
  const float from_directions = kUnit * std::sqrt(float(directions)) * measuring;
  s.slack = 1 + 4 * kUnit * (summed + 24);
  s.blur = 2 * from_directions + kUnit * float(s.stride / 16 + 32 + directions);
  const float rounding = 0.503f * std::sqrt(float(numbers)) / kWhole;  // of coordinates
  s.margin = 2 * (from_directions + kUnit * float(s.stride / 16 + 64)) +
             2 * rounding * (1 + 2 * rounding);
  if (!directions) s.margin += kUnit * float(s.stride);

  if (s.places && keeps) keep_coordinates_of<T>(rows, s);
  const bool bounds_pay = pause_ == 0 && typical_ > 0 && (directions ? s.coordinates != nullptr
                                                                     : !between_pays_);
  if (s.places && keeps && bounds_pay) choose_bounds(rows, sizeof(T), threads, s);
  followed_ &= labels && keeps;
  if (!s.bounds || !followed_) bounded_ = false;  // bounds are of others than their labels
  if (!bounded_) arranged_ = false;
  if (s.places) pack(kernel, centroids, threads, s);
  if (!s.places) {
    s.bounds = nullptr;
    bounded_ = arranged_ = false;
    std::iota(index_.begin(), index_.end(), 0);
    std::iota(position_.begin(), position_.end(), 0);
    const std::vector<T> filled = filled_up(centroids, k, s.d);
    centroids_ = aligned<char>(filled.size() * sizeof(T));
    std::memcpy(centroids_.get(), filled.data(), filled.size() * sizeof(T));
    s.centroids = centroids_.get();
  }
  s.index = index_.data();
  s.position = position_.data();
  s.groups = s.bounds ? groups_ : 0;
  s.together = s.bounds ? together_ : k;
  if (s.places && labels) separate(kernel, rows, threads, s);
  if (s.places && keeps) follow(centroids, threads, s);
  if (s.bounds) move(s);
  const bool can_tell = s.bounded || (s.apart && !s.bounds);
  s.pairs_before = static_cast<float>(share_visited * double(k));
  s.looked_before = static_cast<float>(share_looked_);
  const bool readable = !s.coordinates || s.measured;  // rows that are not measured have theirs
  s.reached = followed_ && s.reach && !all && knows_inertia && can_tell && readable;
  followed_ = s.reach != nullptr;
  return s;
}

void km_workspace::searched(const km_search& s, int64_t n, const km_seen& seen, int64_t changed) {
  const double most = double(n) * double(s.k);
  share_visited = s.places && most > 0 ? double(seen.pairs) / most : 1.0;
  share_looked_ = n ? double(seen.looked) / double(n) : 0;
  if (s.coordinates && s.places) measured_ = true;
  if (pause_ > 0) --pause_;
  if (pause_of_apart_ > 0) --pause_of_apart_;
  if (s.bounded && share_visited > kMostVisited) {
    pause_ = kPause;
    between_pays_ = true;
    spent_ = 0;
  }
  if (s.between) {
    const bool still = double(changed) < kFewChanged * double(n);
    spent_ = still ? spent_ + std::max(share_visited - kLittleBetween, 0.0) : 0;
    between_pays_ = spent_ < kSumBetween && share_visited < kManyBetween;
  }
  if (s.apart && !(s.between && between_pays_) && double(seen.plain) < kFewPlain * double(n))
    pause_of_apart_ = kPauseOfApart;
  bounded_ = s.bounds != nullptr && pause_ == 0;
  if (bounded_ || !s.reach) return;
  std::vector<double> some;
  for (int64_t i = 0; i < n; i += n / kSample + 1) some.push_back(double(s.reach[i]));
  if (some.empty()) return;
  std::nth_element(some.begin(), some.begin() + some.size() / 2, some.end());
  typical_ = some[some.size() / 2];
  if (!(typical_ * typical_ < kTooLargeNorm)) typical_ = 0;
}

template km_search km_workspace::ready<float>(const km_kernel&, const km_rows&, const float*,
                                              int64_t, const int64_t*, bool, bool, int);
template km_search km_workspace::ready<double>(const km_kernel&, const km_rows&, const double*,
                                               int64_t, const int64_t*, bool, bool, int);
