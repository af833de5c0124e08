#include "workspace.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

namespace {

constexpr int64_t kPanel = 16;
// Where most pairs are looked at all the same, bounds rest for some calls.
constexpr double kMostVisited = 0.98;
constexpr int kPause = 2;
// Memory for each thread that bounds may take beyond what each row may.
constexpr int64_t kBoundsOfThread = 40 << 20;
// Steps of bounds to the distance of a typical row.
constexpr double kSteps = 160;
constexpr int64_t kSample = 1000;  // of rows that are asked what is typical
constexpr float kUnit = 1.0f / (1 << 24);  // the rounding error of one operation
constexpr float kTooLarge = 1e36f;

int64_t panels_of(int64_t count) { return (count + kPanel - 1) / kPanel; }

}  // namespace

// Neighbours next to each other: halves along the widest axis, down to a group.
void km_workspace::order(const float* coordinates, int64_t pitch, int64_t axes, int32_t* begin,
                         int32_t* end) {
  const int64_t count = end - begin;
  if (count <= together_) return;
  int64_t widest = 0;
  double most = -1;
  for (int64_t j = 0; j < axes; ++j) {
    double sum = 0, squares = 0;
    for (const int32_t* c = begin; c < end; ++c) {
      const double value = coordinates[*c * pitch + j];
      sum += value;
      squares += value * value;
    }
    const double variance = squares - sum * sum / double(count);
    if (variance > most) {
      most = variance;
      widest = j;
    }
  }
  int32_t* middle = begin + ((count + together_ - 1) / together_ + 1) / 2 * together_;
  std::nth_element(begin, middle, end, [&](int32_t a, int32_t b) {
    const float x = coordinates[a * pitch + widest], y = coordinates[b * pitch + widest];
    return x < y || (x == y && a < b);
  });
  order(coordinates, pitch, axes, begin, middle);
  order(coordinates, pitch, axes, middle, end);
}

// Puts the centroids and their coordinates into panels.
template <typename T>
void km_workspace::pack(const km_kernel& kernel, const T* centroids, km_search& s) {
  const int64_t places = s.panels * kPanel;
  const std::vector<T> rows = filled_up(centroids, s.k, s.d);
  auto coordinates = aligned<float>(size_t(s.k * s.pitch));
  auto centered = aligned<float>(size_t(kBlock * s.stride));
  auto norms = aligned<float>(size_t(s.k));
  for (int64_t first = 0; first < s.k; first += kBlock)
    kernel.measure(s, sizeof(T) == 8, rows.data() + first * s.stride,
                   static_cast<int>(std::min<int64_t>(kBlock, s.k - first)), centered.get(),
                   coordinates.get() + first * s.pitch, norms.get() + first);
  if (!std::all_of(norms.get(), norms.get() + s.k, [](float n) { return n < kTooLarge; })) {
    s.panels = 0;  // bounds could overflow
    return;
  }
  if (!ordered_) {
    std::iota(index_.begin(), index_.end(), 0);
    if (s.bounds && together_ > 1)
      order(coordinates.get(), s.pitch, std::min<int64_t>(s.width, 64), index_.data(),
            index_.data() + s.k);
    for (int64_t c = 0; c < s.k; ++c) position_[index_[c]] = static_cast<int32_t>(c);
    ordered_ = s.bounds != nullptr;
  }
  centroids_ = aligned<char>(size_t(places * s.stride) * sizeof(T));
  const int64_t columns = 1 + s.width;
  packed_ = aligned<float>(size_t(places * columns));
  fine_ = aligned<float>(size_t(places * s.pitch));
  fine_norms_ = aligned<float>(size_t(places));
  T* placed = reinterpret_cast<T*>(centroids_.get());
  for (int64_t place = 0; place < places; ++place) {
    float* column = packed_.get() + place / kPanel * columns * kPanel + place % kPanel;
    if (place >= s.k) {
      column[0] = -std::numeric_limits<float>::infinity();
      for (int64_t j = 1; j < columns; ++j) column[j * kPanel] = 0;
      continue;
    }
    const int64_t c = index_[place];
    const float* z = coordinates.get() + c * s.pitch;
    std::copy_n(rows.data() + c * s.stride, s.stride, placed + place * s.stride);
    std::copy_n(z, s.pitch, fine_.get() + place * s.pitch);
    fine_norms_[place] = norms[c];
    column[0] = -0.5f * norms[c] * (1 - s.margin);
    for (int64_t j = 0; j < s.width; ++j) column[(1 + j) * kPanel] = z[j];
  }
  s.centroids = centroids_.get();
  s.packed = packed_.get();
  s.coordinates_of_centroids = fine_.get();
  s.norms_of_centroids = fine_norms_.get();
}

// How many bounds a row gets: all that is kept takes at most half as much as the rows, 64 bytes
// for each, and something for each thread.
void km_workspace::choose_bounds(const km_rows& rows, size_t element, int threads, km_search& s) {
  int64_t room = rows.d * int64_t(element) / 2 + 64 + kBoundsOfThread * threads / rows.n -
                 int64_t(sizeof(int64_t) + element + sizeof(float));
  if (s.coordinates) room -= (s.pitch + 1) * int64_t(sizeof(float));
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
  group_of_.resize(s.panels * kPanel);
  for (int64_t place = 0; place < s.panels * kPanel; ++place)
    group_of_[place] = static_cast<int32_t>(place / together_);
  s.bounds = bounds_.get();
  s.base = base_.get();
}

// Adds how far the centroids have moved since the last call.
template <typename T>
void km_workspace::move(const T* centroids, km_search& s) {
  if (!bounded_) {
    moved_.assign(groups_, 0.0);
    step_ = typical_ / kSteps;
  }
  std::vector<double> most(groups_, 0.0);
  before_.resize(s.k * s.d);
  for (int64_t c = 0; c < s.k; ++c) {
    double* before = before_.data() + c * s.d;
    if (bounded_) {
      double squares = 0;
      for (int64_t j = 0; j < s.d; ++j) {
        const double difference = centroids[c * s.d + j] - before[j];
        squares += difference * difference;
      }
      double& far = most[group_of_[position_[c]]];
      far = std::max(far, std::sqrt(squares));
    }
    std::copy_n(centroids + c * s.d, s.d, before);
  }
  for (int64_t g = 0; g < groups_; ++g) moved_[g] += most[g] * (1 + 1e-6) / step_;
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
  s.group_of = group_of_.data();
  s.per_step = static_cast<float>(1 / step_);
  s.moved_most = moved_most_.data();
  s.moved_least = moved_least_.data();
  s.settled = settled_.empty() ? nullptr : settled_.data();
  s.bounded = bounded_;
}

template <typename T>
void km_workspace::keep_coordinates_of(const km_rows& rows, km_search& s) {
  if (!directions || !keep_coordinates) return;
  if (!measured) {
    coordinates_ = aligned<float>(size_t(rows.n * s.pitch));
    norms_ = aligned<float>(size_t(rows.n));
  }
  s.coordinates = coordinates_.get();
  s.norms = norms_.get();
  s.measured = measured;
}

template <typename T>
km_search km_workspace::ready_to_seed(const km_kernel& kernel, const km_rows& rows,
                                      const T* candidates, int64_t m) {
  if (!seeding_) seeding_ = std::make_unique<km_workspace>();
  km_workspace& other = *seeding_;
  other.few_centroids_ = 0;
  other.directions = directions;
  other.basis = basis;
  other.given_center = given_center;
  km_search s = other.ready(kernel, rows, candidates, m, false, 1);
  if (s.panels) keep_coordinates_of<T>(rows, s);
  return s;
}

template <typename T>
km_search km_workspace::ready(const km_kernel& kernel, const km_rows& rows, const T* centroids,
                              int64_t k, bool keeps, int threads) {
  km_search s = {};
  s.k = k;
  s.d = rows.d;
  s.stride = panels_of(s.d) * kPanel;
  s.panels = k > few_centroids_ ? panels_of(k) : 0;
  if (k != k_ || rows.n != n_) {
    ordered_ = bounded_ = false;
    bounds_.reset();
    pause_ = 0;
    typical_ = 0;
    k_ = k;
    n_ = rows.n;
  }
  index_.resize(std::max(s.panels * kPanel, k));
  position_.resize(k);

  s.directions = directions;
  s.basis = basis.data();
  s.width = directions ? directions + 1 : s.d;
  s.pitch = directions ? directions + 1 : s.stride;
  center_.assign(s.stride, 0.0f);
  if (directions) {
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
  s.margin = 2 * (from_directions + kUnit * float(s.width + s.stride / 16 + 36));
  s.fine_margin = 6 * from_directions + kUnit * float(s.stride / 16 + 96 + directions);

  if (s.panels && keeps) keep_coordinates_of<T>(rows, s);
  if (s.panels && keeps && pause_ == 0 && typical_ > 0 && (s.coordinates || !directions))
    choose_bounds(rows, sizeof(T), threads, s);
  if (!s.bounds) bounded_ = false;
  if (!bounded_) ordered_ = false;
  if (s.panels) pack(kernel, centroids, s);
  if (!s.panels) {
    s.bounds = nullptr;
    bounded_ = ordered_ = false;
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
  s.group_of = nullptr;
  if (s.bounds) move(centroids, s);
  // Processor cycles, about: of a centroid among all, and of one that is looked at by itself.
  const double all = 0.026 * double(s.width) + 0.35 + 1.0 / double(s.together);
  const double one = directions ? 0.06 * double(s.pitch) + 8 : 0.5 * double(s.stride) + 15;
  s.most_pairs = double(k) * all / one;
  return s;
}

template <typename T>
void km_workspace::searched(const km_search& s, int64_t n, const T* distances, int64_t pairs) {
  const double most = double(n) * double(s.k);
  share_visited = s.panels && most > 0 ? double(pairs) / most : 1.0;
  if (s.coordinates && s.panels) measured = true;
  if (pause_ > 0) --pause_;
  if (s.bounded && share_visited > kMostVisited) pause_ = kPause;
  bounded_ = s.bounds != nullptr && pause_ == 0;
  if (bounded_ || !distances) return;
  std::vector<double> some;
  for (int64_t i = 0; i < n; i += n / kSample + 1) some.push_back(std::sqrt(double(distances[i])));
  if (some.empty()) return;
  std::nth_element(some.begin(), some.begin() + some.size() / 2, some.end());
  typical_ = some[some.size() / 2];
  if (!(typical_ < kTooLarge)) typical_ = 0;
}

template km_search km_workspace::ready<float>(const km_kernel&, const km_rows&, const float*,
                                              int64_t, bool, int);
template km_search km_workspace::ready_to_seed<float>(const km_kernel&, const km_rows&,
                                                      const float*, int64_t);
template km_search km_workspace::ready_to_seed<double>(const km_kernel&, const km_rows&,
                                                       const double*, int64_t);
template km_search km_workspace::ready<double>(const km_kernel&, const km_rows&, const double*,
                                               int64_t, bool, int);
template void km_workspace::searched<float>(const km_search&, int64_t, const float*, int64_t);
template void km_workspace::searched<double>(const km_search&, int64_t, const double*, int64_t);
