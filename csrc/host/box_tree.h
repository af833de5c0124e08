// Rows of few features in a tree of boxes: see kernel/few/boxes.h.
#pragma once

#include <memory>

#include "abi/native.h"
#include "host/memory.h"
#include "kernel/few/boxes.h"

namespace km {

// Owns the arrays of a Boxes<T>. The tree has copies of all rows and weights, not of the caller's
// memory: it serves as long as the rows are the same.
template <typename T>
class BoxTree {
 public:
  // rows: of 1 to kSortedFeatures features. Null for cosine, where a number is not finite or could
  // overflow (kMostOfTree), and for 2^32 rows or more.
  static std::unique_ptr<BoxTree> of(const km_rows& rows, int threads);

  const Boxes<T>& view() const { return tree_; }
  // Whether no distance of a row to one of these points overflows; count: numbers of all points.
  static bool measures(const T* points, int64_t count);

  // What the E-step takes the labels (n) of its last call to have been, in the caller's order; null
  // where there was no call. Only up to kFewFeatures.
  void take_labels(const int64_t* labels);

  // See km_potentials and km_lower: nearest (n) in the caller's order; unchanged where it holds
  // what the last of these calls left. Potentials (m) are those of candidates (m, d); false, and
  // nothing is written, where a potential is not finite: before the first center nearest is
  // infinite.
  bool potentials(const T* nearest, const T* candidates, int64_t m, bool unchanged,
                  double* potentials, int threads);
  void lower(T* nearest, const T* center, bool unchanged, int threads);
  // Gives back the memory of seeding.
  void end_seeding();

 private:
  bool build(const km_rows& rows, int threads);
  void lay_out_levels(const km_rows& rows);
  void take_memory(bool weighted);
  void take_seeding_memory();
  void read_nearest(const T* nearest, int threads);
  void read_leaf(int64_t leaf, const T* nearest);
  void unite_children(int level, int64_t node);

  // The arrays of Boxes<T>, by the names they have there.
  struct Memory {
    Array<T> features, middle, half;
    Array<double> weights, moments;
    Array<uint32_t> number;
    Array<int32_t> label_of_row, label_of_node;
    Array<uint8_t> cancels;
  };
  struct SeedingMemory {
    Array<T> nearest, farthest;
    Array<double> potential;
  };
  Boxes<T> tree_ = {};
  Memory memory_;
  SeedingMemory seeding_memory_;
};

}  // namespace km
