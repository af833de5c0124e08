#include "host/upper_bounds.h"

#include <algorithm>
#include <cmath>

#include "host/split.h"

namespace km {

namespace {

// Rounds a drift up: the sum of squares in double is off by less than d · 2^-53, and the drift of a
// place is rounded to float, by 2^-24 = 6e-8 at most.
constexpr double kRoundedUp = 1 + 1e-6;

// ‖now - then‖ of two points (d), rounded up; 0 only where they are equal.
template <typename T>
double distance_moved(const T* now, const T* then, int64_t d) {
  if (std::equal(now, now + d, then)) return 0;
  double squares = 0;
  for (int64_t j = 0; j < d; ++j) {
    const double difference = double(now[j]) - double(then[j]);
    squares += difference * difference;
  }
  return std::sqrt(squares) * kRoundedUp;
}

}  // namespace

// Threads take shares of the centroids. A copy of the centroids is kept even where no drift is
// asked for, since the next call may ask.
template <typename T>
void KeptUpperBounds<T>::follow(const T* centroids, const Places<T>& places, bool kept,
                                int threads) {
  const int64_t k = places.k, d = places.d;
  previous_.resize(size_t(k * d));
  drift_.assign(size_t(k), 0.0);
  T* const previous = previous_.data();
  in_shares(k, n_shares(k, d, threads), [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t c = begin; kept && c < end; ++c)
      drift_[size_t(c)] = distance_moved(centroids + c * d, previous + c * d, d);
    std::copy(centroids + begin * d, centroids + end * d, previous + begin * d);
  });
}

// The kernel looks drifts up by place, where the centroid of a row stands.
template <typename T>
UpperBounds KeptUpperBounds<T>::make(const Places<T>& places, int64_t n, const LastSearch& last,
                                     bool skips_rows) {
  if (!reach_) reach_ = aligned<float>(size_t(n));
  drift_of_place_.assign(size_t(places.count), 0.0f);
  for (int64_t place = 0; place < places.k; ++place)
    drift_of_place_[size_t(place)] = static_cast<float>(drift_[size_t(places.index[place])]);
  UpperBounds upper = {};
  upper.reach = reach_.get();
  upper.drift = drift_of_place_.data();
  upper.pairs_before = static_cast<float>(last.share_visited * double(places.k));
  upper.compared_before = static_cast<float>(last.share_compared);
  upper.skips_rows = skips_rows;
  return upper;
}

template <typename T>
void KeptUpperBounds<T>::release() {
  reach_.reset();
}

template class KeptUpperBounds<float>;
template class KeptUpperBounds<double>;

}  // namespace km
