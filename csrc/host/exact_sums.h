// What clusters add up to: their weights and sums, and the inertia that follows from these.
#pragma once

#include <cstdint>
#include <vector>

#include "abi/native.h"
#include "kernel/many/search.h"
#include "kernel/many/sums.h"

namespace km {

// Sums of floats without weights are exact where their sizes allow it: then rows whose labels
// change are moved from one sum to another, with the same result as if all had been added up again.
// Others are plain sums in double precision, added up anew each time.
template <typename T>
class ExactSums {
 public:
  // Begins a call for k clusters; follows: labels are those of the last call.
  void start(const km_rows& rows, int64_t k, bool follows, int64_t parts, const float* center);
  // Whether moves are enough; else all rows are to be added, each part to its own sums.
  bool follow() const { return follows_; }
  ClusterSums& of_part(int64_t part) { return parts_[part].sums; }

  // After that, what the parts add up to.
  void add_parts(const km_rows& rows, int64_t stride, const int64_t* labels);
  void move(const km_rows& rows, int64_t stride, const std::vector<Move>& moves, int threads);

  void write(double* sums, double* counts, int threads) const;
  // Σ w ‖x - c‖² of the clusters; NaN where rounding could count.
  double inertia(const T* centroids, int threads) const;

 private:
  struct Part {
    std::vector<double> high, low, counts, squares;
    ClusterSums sums;
  };

  void zero(int64_t parts);
  void add_all(const km_rows& rows, int64_t stride, const int64_t* labels);
  void split(uint32_t largest);
  bool is_exact(uint32_t largest, uint32_t smallest) const;

  int64_t n_ = 0, k_ = 0, d_ = 0;
  bool current_ = false;  // sums are exact, and of the labels of the last call
  bool follows_ = false;  // this call
  bool inexact_ = false;  // they cannot be
  bool splits_ = false;
  int unit_ = 0;                // multiples are of 2^unit_
  std::vector<double> center_;  // (d)
  std::vector<Part> parts_;     // once they are added up, of all rows the first one
};

}  // namespace km
