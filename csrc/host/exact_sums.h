// Sums and weights of clusters, and the inertia that follows from them, kept from call to call.
#pragma once

#include <cstdint>
#include <vector>

#include "abi/native.h"
#include "host/sum_unit.h"
#include "kernel/many/search.h"
#include "kernel/many/sums.h"

namespace km {

// Sums of floats without weights are exact where the sizes of the numbers allow it (SumUnit). A row
// whose label changes is then moved from one sum to another, and the result has the same bits as if
// all rows had been added up again. Sums of doubles, of weighted rows, of more than 16 MB are plain
// ones in double precision, added up anew in each call.
//
//   start ─┬─ follow(): labels changed in few rows ──────── move ──────┬── write, inertia
//          └─ else: each part adds all its rows to of_part, add_parts ─┘
template <typename T>
class ExactSums {
 public:
  // Begins a call for k clusters, whose rows are added by so many threads (parts). same_labels: the
  // labels that the call begins with are those that the last call ended with. center (d), near the
  // data, is copied; it may differ from that of the last call only where not same_labels.
  void start(const km_rows& rows, int64_t k, bool same_labels, int64_t parts, const float* center);
  // A call without sums has changed labels: the next one adds all rows.
  void forget() { current_ = false; }
  // Whether moving rows is enough in this call; else all rows are to be added.
  bool follow() const { return follows_; }
  // The sums of a part, which its thread adds rows to (Kernel::add_up).
  ClusterSums& of_part(int64_t part) { return parts_[part].sums; }

  // Adds the sums of the parts, once all rows have been added to them; checks that they are exact,
  // and adds all rows (n, by their labels) again with another unit where they are not. stride is d
  // filled up to a multiple of 16.
  void add_parts(const km_rows& rows, int64_t stride, const int64_t* labels);
  // Instead of add_parts: takes rows off the sums of their old clusters and adds them to the new
  // ones.
  void move(const km_rows& rows, int64_t stride, const std::vector<Move>& moves, int threads);

  // Writes sums (k, d), rounded once each, and counts (k), after add_parts or move.
  void write(double* sums, double* counts, int threads) const;
  // Σ weight · ‖x - c‖² of all rows and their centroids (k, d); NaN where rounding could count.
  double inertia(const T* centroids, int threads) const;

 private:
  // What one thread adds up; made by zero.
  struct Part {
    std::vector<double> high, low, counts, squares;
    ClusterSums sums;  // pointers to these
  };
  // A sum, and the sum of the sizes of its terms.
  struct Sum {
    double value = 0, scale = 0;
  };

  void zero(int64_t parts);
  void add_all(const km_rows& rows, int64_t stride, const int64_t* labels);
  FloatRange range_of_parts() const;
  Sum inertia_of(int64_t cluster, const T* centroid) const;

  int64_t n_ = 0, k_ = 0, d_ = 0;  // of the last call
  bool current_ = false;           // sums are exact, and go with the labels of the last call
  bool follows_ = false;           // this call moves rows
  bool inexact_ = false;           // sums of these rows were tried, and cannot be exact
  bool splits_ = false;            // this call's sums are split at unit_
  SumUnit unit_;
  std::vector<double> center_;  // (d)
  std::vector<Part> parts_;     // (parts); after add_parts (1): the sums of all rows
};

}  // namespace km
