// Lower bounds on the distances of rows to groups of centroids.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "abi/native.h"
#include "host/memory.h"
#include "kernel/many/search.h"

namespace km {

// How much memory a row may have for lower bounds, in bytes, of which each bound takes one; 0 or
// less: none. pitch: pairs of a row's coordinates where these are kept too, else 0.
int64_t bytes_for_bounds(const km_rows& rows, int64_t pitch, bool directions, int threads);

// Makes LowerBounds. A row has one bound for each group of centroids (Yinyang; with groups of one
// centroid Elkan's). A bound is a byte, in steps above the row's base:
//
//   distance   0 ---- base ---------- to its centroid ---------------------------------- >
//   in steps            0                  32                          255 (or farther)
//
// Centroids move, bounds stay as they were written: the drift of a group, added up since, is taken
// off when a bound is read. Once a group has moved kMostSteps, the drift is taken off all bounds
// in memory and begins again at 0 (rebase).
class KeptLowerBounds {
 public:
  // Chooses how many of the k centroids share a bound, so that n rows have so many bytes each.
  // Returns whether the bounds in memory are of the same groups; new memory holds none.
  bool choose_groups(int64_t n, int64_t k, int64_t bytes);
  int64_t together() const { return together_; }

  // drift (k) of each centroid since the last call, and the distance of a typical row to its
  // centroid, more than 0. Kept: bounds of the last call are there; else they are to be written.
  LowerBounds make(const int32_t* position, const Coordinates& coordinates, int64_t places,
                   const std::vector<double>& drift, double typical_distance, bool kept);

  // The number of rows or of centroids is another one now, or the memory is needed.
  void release();

 private:
  void add_drift(const int32_t* position, const std::vector<double>& drift);
  void rebase();
  void pack_terms(const Coordinates& coordinates, int64_t k, int64_t places);

  int64_t groups_ = 0, together_ = 1;
  double step_ = 1;                            // length of a step
  Array<uint8_t> steps_;                       // LowerBounds::steps
  Array<float> base_;                          // LowerBounds::base
  std::vector<int32_t> group_of_;              // (places)
  std::vector<double> drift_;                  // (groups), in steps, since bounds were written
  std::vector<uint8_t> drift_above_, rebase_;  // (groups); rebase_ is empty in most calls
  std::vector<float> drift_below_;             // (groups)
  std::vector<std::array<float, 4>> terms_;    // (places)
};

}  // namespace km
