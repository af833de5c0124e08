// What seeding keeps of the rows, and of the last candidates (greedy k-means++, k-means||).
#pragma once

#include <cstdint>
#include <vector>

#include "abi/native.h"
#include "host/centroid_places.h"
#include "host/coordinates.h"
#include "host/row_coordinates.h"
#include "kernel/many/search.h"

namespace km {

// A round of seeding draws candidates, asks for their potentials, and lowers the squared distances
// of the rows by the best one. Both steps measure rows against few points, so that there are no
// bounds to keep but the distances themselves: a candidate is discarded by its score. Up to
// kMeasuredFeatures features every distance is computed instead.
template <typename T>
class Seeding {
 public:
  // Scores are along these directions, for all of seeding; keeps: the rows' coordinates may be kept
  // in memory.
  Seeding(const Directions& directions, bool keeps) : directions_(directions), keeps_(keeps) {}

  // potentials (m) of candidates (m, d), contiguous: Σ w min(nearest, ‖x - candidate‖²), with
  // nearest (n) the squared distances to the nearest center so far, or infinity.
  void potentials(const km_rows& rows, const T* nearest, const T* candidates, int64_t m,
                  double* potentials, int threads);
  // Lowers nearest (n) by the squared distances to a center (d). unchanged: nearest is as it was
  // when potentials were asked for, so that a center which was a candidate then has been compared.
  void lower(const km_rows& rows, T* nearest, const T* center, bool unchanged, int threads);

 private:
  Search<T> search_for(const km_rows& rows, const T* candidates, int64_t m);
  void potentials_by_scores(const km_rows& rows, const T* nearest, const T* candidates, int64_t m,
                            double* potentials, int threads);
  void potentials_by_distances(const km_rows& rows, const T* nearest, const T* candidates,
                               int64_t m, double* potentials, int threads);
  int compared_candidate(const std::vector<T>& center) const;
  void lower_all(const km_rows& rows, T* nearest, const std::vector<T>& center, int threads);

  Directions directions_;
  const bool keeps_;
  CentroidPlaces<T> places_;
  CentroidCoordinates coordinates_;
  KeptCoordinates rows_;
  std::vector<T> candidates_;      // (m, stride): the last ones, until nearest is lowered
  std::vector<uint16_t> reached_;  // (n): bit c < 16: candidate c is nearer than nearest
};

}  // namespace km
