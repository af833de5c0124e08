#include "host/search_maker.h"

#include <algorithm>

namespace km {

namespace {

// Up to so many centroids are not worth a screen: to make coordinates and bounds, and to test them,
// takes as long as the distances that they spare.
constexpr int64_t kFewCentroids = 8;

}  // namespace

// In the order in which the structs depend on each other: groups of lower bounds on the memory that
// coordinates of rows take, places on groups, coordinates of centroids on places, bounds on both.
template <typename T>
Search<T> SearchMaker<T>::make(const km_rows& rows, const T* centroids, int64_t k,
                               const SearchRequest& request) {
  if (rows.n != n_ || k != k_) restart(rows.n, k);
  const std::vector<T> filled = filled_up(centroids, k, rows.d);
  Search<T> s = {};
  s.coordinates = coordinates_.choose_axes(request.directions, filled, k, rows.d);
  // Without a screen every centroid is tried, and no bounds are kept.
  const bool screened =
      k > kFewCentroids && coordinates_.measure(filled, k, rows.d, request.threads);
  const bool keeps = screened && request.keeps;
  s.places.k = k;
  if (request.keeps)
    s.labels = kept_labels(request.labels);
  else
    labels_.reset();  // the call writes others, to its result alone
  if (keeps && request.directions.count && request.keeps_coordinates)
    s.rows = rows_.by_row(rows.n, s.coordinates);
  Kept kept = policy_.begin(keeps && request.labels);
  const bool lower_bounds = keeps && choose_lower_bounds(rows, s, request, kept);
  // Bounds that are kept are of groups of places: these stay as they are.
  if (kept != Kept::kBothBounds) order_centroids(k, lower_bounds);
  s.places = places_.make(filled, k, rows.d, screened);
  if (screened) {
    s.coordinates = coordinates_.place(s.places.index, s.places.count);
    add_bounds(rows, centroids, request, kept, lower_bounds, s);
  }
  return s;
}

// All bounds and labels are of another number of rows or centroids. (Coordinates of rows are not.)
template <typename T>
void SearchMaker<T>::restart(int64_t n, int64_t k) {
  policy_.restart();
  lower_.release();
  upper_.release();
  labels_.reset();
  n_ = n;
  k_ = k;
}

// Whether the call has lower bounds; then the groups are chosen. Without lower bounds, or with
// other groups than those of the last call, upper bounds alone are kept.
template <typename T>
bool SearchMaker<T>::choose_lower_bounds(const km_rows& rows, const Search<T>& s,
                                         const SearchRequest& request, Kept& kept) {
  const bool along = request.directions.count > 0, coordinates_kept = s.rows.coordinates != nullptr;
  bool chosen = policy_.lower_bounds_pay(along, coordinates_kept);
  const int64_t pitch = coordinates_kept ? s.coordinates.pitch : 0;
  const int64_t bytes = chosen ? bytes_for_bounds(rows, pitch, along, request.threads) : 0;
  chosen = bytes > 0;
  const bool same_groups = chosen && lower_.choose_groups(rows.n, s.places.k, bytes);
  if (kept == Kept::kBothBounds && !same_groups) kept = Kept::kUpperBounds;
  return chosen;
}

// Neighbors next to each other where a group of them shares a bound.
template <typename T>
void SearchMaker<T>::order_centroids(int64_t k, bool in_groups) {
  if (in_groups && lower_.together() > 1)
    places_.order_in_groups(coordinates_.leading(), coordinates_.leading_width(), k,
                            lower_.together());
  else
    places_.order_by_index(k);
}

// Upper and lower bounds of a call that keeps them, and gaps where rows have labels.
template <typename T>
void SearchMaker<T>::add_bounds(const km_rows& rows, const T* centroids,
                                const SearchRequest& request, Kept kept, bool lower_bounds,
                                Search<T>& s) {
  const int64_t k = s.places.k, count = s.places.count;
  if (request.labels && policy_.gaps_pay(k, rows.n)) {
    const bool pairwise = policy_.pairwise_gaps_pay(k, count, request.directions.count > 0,
                                                    lower_bounds, request.threads);
    s.gaps = gaps_.make(s.coordinates, k, count, pairwise, request.threads);
  }
  if (!request.keeps) return;
  upper_.follow(centroids, s.places, kept != Kept::kNothing, request.threads);
  if (lower_bounds)
    s.bounds = lower_.make(s.places.position, s.coordinates, count, upper_.drift(),
                           policy_.typical_distance(), kept == Kept::kBothBounds);
  // Rows whose coordinates are still to be measured are read anyhow.
  const bool coordinates_known = !s.rows.coordinates || s.rows.measured;
  const bool skips = !request.every_distance && coordinates_known &&
                     policy_.rows_may_be_skipped(kept, lower_bounds, s.gaps.nearest != nullptr);
  s.upper = upper_.make(s.places, rows.n, policy_.last(), skips);
}

// A copy of the labels in 32 bits: half the memory to read, and the caller may write over the
// others. Where the last call kept none, labels (n) or null: what the caller says of it; out of
// range counts as 0.
template <typename T>
int32_t* SearchMaker<T>::kept_labels(const int64_t* labels) {
  if (labels_) return labels_.get();
  labels_ = aligned<int32_t>(size_t(n_));
  for (int64_t i = 0; i < n_; ++i) {
    const bool in_range = labels && labels[i] >= 0 && labels[i] < k_;
    labels_[size_t(i)] = in_range ? static_cast<int32_t>(labels[i]) : 0;
  }
  return labels_.get();
}

template <typename T>
void SearchMaker<T>::finish(const Search<T>& s, int64_t n, const Seen& seen, int64_t changed) {
  if (s.rows.coordinates && s.places.count) rows_.note_measured();
  policy_.finish(s, n, seen, changed);
}

template <typename T>
void SearchMaker<T>::release_rows() {
  rows_.release();
  lower_.release();
  policy_.lose_lower_bounds();
}

template class SearchMaker<float>;
template class SearchMaker<double>;

}  // namespace km
