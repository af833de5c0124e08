// What a search for the nearest centroids of rows of many features is given.
#pragma once

#include "abi/native.h"
#include "host/centroid_gaps.h"
#include "host/centroid_places.h"
#include "host/coordinates.h"
#include "host/lower_bounds.h"
#include "host/memory.h"
#include "host/policy.h"
#include "host/row_coordinates.h"
#include "host/upper_bounds.h"
#include "kernel/many/search.h"

namespace km {

// What an E-step asks of a search.
struct SearchRequest {
  const Directions& directions;  // along which rows are measured; none: all features
  bool keeps_coordinates;        // the coordinates of the rows may be kept
  const int64_t* labels;         // (n), those of the last call; null: there is none to follow
  bool keeps;                    // other calls follow: bounds and labels are kept for them
  bool every_distance;           // of each row to its centroid: no row may be skipped
  int threads;
};

// Makes Search<T>, each of its structs by the maker of that name, from what the last search left.
// The makers know how, each of one kind of memory; the policy says which memory a call has.
template <typename T>
class SearchMaker {
 public:
  // For centroids (k, d). Points into this object, and holds until another function is called.
  Search<T> make(const km_rows& rows, const T* centroids, int64_t k, const SearchRequest& request);
  // The search of n rows is over: seen says what was measured, changed how many labels. A call that
  // fails never gets here, and no bounds are kept.
  void finish(const Search<T>& search, int64_t n, const Seen& seen, int64_t changed);
  // Whether the inertia of this call follows from the sums of the clusters: only then may the next
  // call skip rows, whose distances nobody computes.
  void note_inertia(bool follows_from_sums) { policy_.note_inertia(follows_from_sums); }

  const LastSearch& last() const { return policy_.last(); }

  // The directions have changed: coordinates of the rows along the old ones are void.
  void forget_coordinates() { rows_.forget(); }
  // Gives back coordinates of the rows and lower bounds: seeding takes as much memory.
  void release_rows();

 private:
  void restart(int64_t n, int64_t k);
  bool choose_lower_bounds(const km_rows& rows, const Search<T>& s, const SearchRequest& request,
                           Kept& kept);
  void order_centroids(int64_t k, bool in_groups);
  void add_bounds(const km_rows& rows, const T* centroids, const SearchRequest& request, Kept kept,
                  bool lower_bounds, Search<T>& s);
  int32_t* kept_labels(const int64_t* labels);

  CentroidPlaces<T> places_;
  CentroidCoordinates coordinates_;
  KeptCoordinates rows_;
  KeptLowerBounds lower_;
  KeptUpperBounds<T> upper_;
  CentroidGaps gaps_;
  Policy policy_;
  Array<int32_t> labels_;    // (n): of the last call; null where it kept none
  int64_t n_ = -1, k_ = -1;  // of the last call
};

}  // namespace km
