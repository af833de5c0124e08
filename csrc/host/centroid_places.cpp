#include "host/centroid_places.h"

#include <algorithm>
#include <numeric>

namespace km {

namespace {

// Coordinates (·, width) of centroids, from which groups of so many are made.
struct Grouping {
  const float* coordinates;
  int64_t width, together;
};

// The axis along which the centroids begin to end vary most. Variances are compared as count times
// variance, Σ x² - (Σ x)² / count; the first axis wins ties.
int64_t widest_axis(const Grouping& g, const int32_t* begin, const int32_t* end) {
  int64_t widest = 0;
  double most = -1;
  for (int64_t j = 0; j < g.width; ++j) {
    double sum = 0, squares = 0;
    for (const int32_t* c = begin; c < end; ++c) {
      const double value = g.coordinates[*c * g.width + j];
      sum += value;
      squares += value * value;
    }
    const double variance = squares - sum * sum / double(end - begin);  // times their number
    if (variance > most) {
      most = variance;
      widest = j;
    }
  }
  return widest;
}

// Sorts the centroids begin to end into groups as a k-d tree does: halves along the widest axis,
// down to a group. The first half gets whole groups, so that only the very last one is short.
void split_into_groups(const Grouping& g, int32_t* begin, int32_t* end) {
  const int64_t count = end - begin;
  if (count <= g.together) return;
  const int64_t groups = (count + g.together - 1) / g.together;
  int32_t* const middle = begin + (groups + 1) / 2 * g.together;
  const int64_t axis = widest_axis(g, begin, end);
  std::nth_element(begin, middle, end, [&](int32_t a, int32_t b) {
    const float x = g.coordinates[a * g.width + axis], y = g.coordinates[b * g.width + axis];
    return x < y || (x == y && a < b);  // ties by index: the order is the same everywhere
  });
  split_into_groups(g, begin, middle);
  split_into_groups(g, middle, end);
}

}  // namespace

// Places from k on are empty. Their index is 0, so that nobody reads beyond the centroids.
template <typename T>
void CentroidPlaces<T>::order_by_index(int64_t k) {
  index_.assign(size_t(filled(k)), 0);
  position_.resize(size_t(k));
  std::iota(index_.begin(), index_.begin() + k, 0);
  std::iota(position_.begin(), position_.end(), 0);
}

template <typename T>
void CentroidPlaces<T>::order_in_groups(const std::vector<float>& coordinates, int64_t width,
                                        int64_t k, int64_t together) {
  order_by_index(k);
  split_into_groups({coordinates.data(), width, together}, index_.data(), index_.data() + k);
  for (int64_t place = 0; place < k; ++place)
    position_[index_[place]] = static_cast<int32_t>(place);
}

// Empty places are zeros. Their score is -infinity, so that nobody asks for a distance to one.
template <typename T>
Places<T> CentroidPlaces<T>::make(const std::vector<T>& centroids, int64_t k, int64_t d,
                                  bool screened) {
  Places<T> places = {};
  places.k = k;
  places.d = d;
  places.stride = filled(d);
  places.count = screened ? filled(k) : 0;
  centroids_ = aligned<T>(size_t(std::max(k, places.count) * places.stride));
  for (int64_t place = 0; place < k; ++place)
    std::copy_n(centroids.data() + index_[place] * places.stride, places.stride,
                centroids_.get() + place * places.stride);
  for (int64_t place = k; place < places.count; ++place)
    std::fill_n(centroids_.get() + place * places.stride, places.stride, T(0));
  places.centroids = centroids_.get();
  places.index = index_.data();
  places.position = position_.data();
  return places;
}

template class CentroidPlaces<float>;
template class CentroidPlaces<double>;

}  // namespace km
